"""Distributions of noise levels: against their densities, within their ranges, and always rising in u."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer_core.config.groups import NoiseConfig
from trainer_core.diffusion.ddpm import ddpm_schedule
from trainer_core.diffusion.density import DISTRIBUTIONS, Density
from trainer_core.diffusion.flow import flow_schedule
from trainer_core.diffusion.noise import sample_u
from trainer_core.diffusion.shift import shift_sigma

SAMPLINGS = sorted(DISTRIBUTIONS)
SHAPE = torch.Size((1, 16, 64, 64))
STATIC: dict[str, Any] = {"shift": 1.0}
DDPM: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ALMOST_ONE = 1.0 - 2.0**-24
densities = st.builds(
    Density,
    sampling=st.sampled_from(SAMPLINGS),
    logit_mean=st.floats(-5, 5),
    logit_std=st.floats(0.05, 5),
    mode_scale=st.floats(-1, 1.75),
    min_timestep=st.integers(0, 999),
    max_timestep=st.integers(1, 1000),
).filter(lambda density: density.min_timestep <= density.max_timestep)


def draws(count: int = 4000) -> Tensor:
    """Return the u of as many samples, as the loader draws them."""
    return torch.stack([sample_u((42, 0, f"data/{number}.png", 0)) for number in range(count)])


def distance(found: Tensor, cdf: Callable[[float], float]) -> float:
    """Return Kolmogorov's and Smirnov's distance between draws and a distribution."""
    ordered = found.double().sort().values.tolist()
    count = len(ordered)
    return max(
        max(abs(cdf(value) - number / count), abs(cdf(value) - (number + 1) / count))
        for number, value in enumerate(ordered)
    )


def integral(density: Callable[[Tensor], Tensor]) -> Callable[[float], float]:
    """Return the CDF of a density on (0, 1), by the midpoint rule."""
    cells = 200_000
    middle = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), torch.cumsum(density(middle), 0) / cells])
    assert abs(sums[-1].item() - 1.0) < 1e-3
    return lambda share: sums[round(share * cells)].item()


def logit_normal(mean: float, std: float) -> Callable[[Tensor], Tensor]:
    """SD3's equation 19."""

    def density(share: Tensor) -> Tensor:
        logit = torch.log(share / (1 - share))
        scale = 1.0 / (std * math.sqrt(2 * math.pi))
        return scale / (share * (1 - share)) * torch.exp(-((logit - mean) ** 2) / (2 * std**2))

    return density


def cosmap(share: Tensor) -> Tensor:
    """SD3's equation 22."""
    return 2 / (math.pi - 2 * math.pi * share + 2 * math.pi * share**2)


CRITICAL = 1.63 / math.sqrt(4000)
"""Of 4000 draws of the right distribution one in a hundred lies farther off."""


@pytest.mark.setting("noise.timestep_sampling", "noise.logit_mean", "noise.logit_std")
@pytest.mark.parametrize(
    ("settings", "density"),
    [
        ({"timestep_sampling": "uniform"}, torch.ones_like),
        ({"timestep_sampling": "logit_normal"}, logit_normal(0.0, 1.0)),
        ({"timestep_sampling": "logit_normal", "logit_mean": 0.8, "logit_std": 0.5}, logit_normal(0.8, 0.5)),
        ({"timestep_sampling": "sigmoid", "logit_std": 1.5, "logit_mean": 3.0}, logit_normal(0.0, 1.5)),
        ({"timestep_sampling": "cosmap"}, cosmap),
    ],
)
def test_draws_follow_the_density_of_their_paper(settings: dict[str, Any], density: Callable[[Tensor], Tensor]) -> None:
    cdf = integral(density)
    sigma = flow_schedule(STATIC, NoiseConfig(**settings), patch=2).timesteps(draws(), SHAPE)
    assert distance(sigma, cdf) < CRITICAL
    share = (ddpm_schedule(DDPM, NoiseConfig(**settings)).timesteps(draws(), SHAPE).double() + 0.5) / 1000
    assert distance(share, cdf) < CRITICAL + 0.002


@pytest.mark.setting("noise.timestep_sampling", "noise.mode_scale")
@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.8, 1.29, 1.75])
def test_mode_sampling_has_the_quantiles_of_the_reference(scale: float) -> None:
    u = (torch.arange(1, 1000) / 1000).double()
    wanted = 1 - u - scale * (torch.cos(math.pi * u / 2) ** 2 - 1 + u)  # SD3's equation 20, falling in u
    found = Density("mode", mode_scale=scale).shares(u.float())
    torch.testing.assert_close(found.double(), wanted.flip(0), atol=3e-6, rtol=0)


@pytest.mark.setting("noise.mode_scale")
def test_a_larger_mode_scale_draws_more_from_the_middle() -> None:
    def middle(scale: float) -> float:
        shares = Density("mode", mode_scale=scale).shares(draws())
        return ((shares > 0.4) & (shares < 0.6)).float().mean().item()

    assert middle(-0.5) < middle(0.0) < middle(1.29)


@given(density=densities, shift=st.floats(0.05, 100), u=st.lists(st.floats(0, ALMOST_ONE, width=32), min_size=2))
def test_shares_rise_in_u_and_stay_within_the_range(density: Density, shift: float, u: list[float]) -> None:
    shares = density.shares(torch.tensor(sorted(u)), shift)
    assert shares.dtype == torch.float32
    assert (shares.diff() >= -1e-6).all()
    assert (shares > 0).all()
    assert (shares >= torch.tensor(density.min_timestep / 1000)).all()
    assert (shares <= torch.tensor(density.max_timestep / 1000)).all()


@pytest.mark.setting("noise.min_timestep", "noise.max_timestep")
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_range_is_the_same_distribution_cut_off_after_the_shift(sampling: Any, shift: float) -> None:
    low, high = 0.3, 0.85
    whole = Density(sampling, 0.4, 1.2, 0.8).shares(torch.linspace(0, ALMOST_ONE, 200_001), shift)
    inside = whole[(whole >= low) & (whole <= high)].double()
    cut = Density(sampling, 0.4, 1.2, 0.8, 300, 850).shares(torch.linspace(0, ALMOST_ONE, 2001), shift)
    quantiles = torch.quantile(inside, torch.linspace(0, 1, 2001).double())
    torch.testing.assert_close(cut.double(), quantiles, atol=2e-4, rtol=0)


@pytest.mark.setting("noise.min_timestep", "noise.max_timestep")
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_diffusion_draws_every_timestep_of_a_range_and_no_other(sampling: str) -> None:
    noise = NoiseConfig.model_validate({"timestep_sampling": sampling, "min_timestep": 300, "max_timestep": 320})
    found = ddpm_schedule(DDPM, noise).timesteps((torch.arange(4000) + 0.5) / 4000, SHAPE)
    assert found.unique().tolist() == list(range(300, 320))  # without the upper end, as kohya's randint


@pytest.mark.setting("noise.min_timestep", "noise.max_timestep")
def test_a_range_of_one_level_is_that_level() -> None:
    noise = NoiseConfig(min_timestep=700, max_timestep=700)
    u = torch.tensor([0.0, 0.5, ALMOST_ONE])
    assert ddpm_schedule(DDPM, noise).timesteps(u, SHAPE).tolist() == [700] * 3
    sigma = flow_schedule({"shift": 3.0}, noise, patch=2).timesteps(u, SHAPE)
    assert sigma.unique().item() == pytest.approx(0.7)


def test_a_range_deep_in_a_tail_is_still_spread_over() -> None:
    shares = Density("logit_normal", 5.0, 1.0, max_timestep=100).shares(torch.linspace(0, ALMOST_ONE, 101))
    assert len(shares.unique()) > 90
    assert shares.max() > 0.0999


@pytest.mark.setting("noise.shift")
def test_a_shift_by_resolution_is_fluxs_rule_for_any_flow_family() -> None:
    resolution = flow_schedule({"shift": 6.0}, NoiseConfig(shift="resolution"), patch=2)
    u = torch.tensor([0.5])
    for side, tokens in ((32, 256), (64, 1024), (128, 4096)):
        mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
        found = resolution.timesteps(u, torch.Size((1, 16, side, side))).item()
        assert found == pytest.approx(math.exp(mu) / (math.exp(mu) + 1), abs=1e-6)
    assert resolution.timesteps(u, SHAPE) < flow_schedule({"shift": 6.0}, NoiseConfig(), 2).timesteps(u, SHAPE)


@pytest.mark.setting("noise.shift")
def test_a_shift_of_one_and_sigmoid_leave_the_distribution_as_it_is() -> None:
    u = draws(50)
    plain = flow_schedule({"shift": 6.0}, NoiseConfig(shift=1.0), 2).timesteps(u, SHAPE)
    assert torch.equal(plain, Density("logit_normal").shares(u))
    sigmoid = NoiseConfig(timestep_sampling="sigmoid")
    assert torch.equal(flow_schedule({"shift": 6.0}, sigmoid, 2).timesteps(u, SHAPE), plain)
    own = flow_schedule({"shift": 6.0}, NoiseConfig(), 2).timesteps(u, SHAPE)
    assert torch.equal(own, shift_sigma(plain, 6.0))


@given(st.integers(0, 998), st.integers(1, 300), st.sampled_from(SAMPLINGS))
def test_rounding_never_leaves_the_range_of_timesteps(low: int, width: int, sampling: Any) -> None:
    high = min(low + width, 1000)
    noise = NoiseConfig(timestep_sampling=sampling, min_timestep=low, max_timestep=high)
    found = ddpm_schedule(DDPM, noise).timesteps(torch.tensor([0.0, ALMOST_ONE]), SHAPE).tolist()
    assert found[0] >= low
    assert found[1] < high
