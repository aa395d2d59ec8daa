"""Flow matching's noise levels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer_core.config.groups import LossConfig, NoiseConfig
from trainer_core.diffusion.density import Density
from trainer_core.diffusion.flow import FlowSchedule, flow_schedule
from trainer_core.diffusion.shift import StaticShift, TokenShift, shift_sigma

FLUX = TokenShift(base_shift=0.5, max_shift=1.15, base_tokens=256, max_tokens=4096, patch=2)
SHAPE = torch.Size((1, 16, 128, 128))
ALMOST_ONE = 1.0 - 2.0**-24


@given(
    u=st.floats(0.0, ALMOST_ONE, width=32),
    mean=st.floats(-5, 5),
    std=st.floats(0.01, 5),
    shift=st.floats(0.01, 100),
    sampling=st.sampled_from(["uniform", "logit_normal"]),
)
def test_sigma_is_always_above_0_and_at_most_1(u: float, mean: float, std: float, shift: float, sampling: str) -> None:
    plan = FlowSchedule(StaticShift(shift), Density(sampling, mean, std))  # type: ignore[arg-type]
    sigma = plan.timesteps(torch.tensor([u]), SHAPE)
    assert 0.0 < sigma.item() <= 1.0
    assert sigma.dtype == torch.float32


@given(st.lists(st.floats(0.0, ALMOST_ONE, width=32), min_size=2, max_size=2))
def test_a_larger_u_is_never_less_noise(pair: list[float]) -> None:
    for sampling in ("uniform", "logit_normal"):
        low, high = FlowSchedule(FLUX, Density(sampling)).timesteps(torch.tensor(sorted(pair)), SHAPE)  # type: ignore[arg-type]
        assert low <= high


def test_logit_normal_has_the_median_and_quartiles_of_its_distribution() -> None:
    plan = FlowSchedule(StaticShift(1.0), Density("logit_normal", 0.5, 2.0))
    sigma = plan.timesteps(torch.tensor([0.25, 0.5, 0.75]), SHAPE)
    quartile = 0.6744897501960817
    wanted = torch.sigmoid(torch.tensor([0.5 - 2 * quartile, 0.5, 0.5 + 2 * quartile]))
    torch.testing.assert_close(sigma, wanted, atol=1e-6, rtol=0)


def test_uniform_without_a_shift_is_u_itself() -> None:
    u = torch.tensor([0.25, 0.5, ALMOST_ONE])
    assert torch.equal(FlowSchedule(StaticShift(1.0), Density("uniform")).timesteps(u, SHAPE), u)


def test_the_shift_of_flux_grows_with_the_picture() -> None:
    assert math.isclose(FLUX.factor(SHAPE), math.exp(1.15))
    assert math.isclose(FLUX.factor(torch.Size((2, 16, 32, 32))), math.exp(0.5))
    assert math.isclose(FLUX.factor(torch.Size((2, 16, 64, 32))), math.exp(FLUX.mu(512)))


def test_a_shift_pushes_towards_noise_and_leaves_the_ends() -> None:
    sigma = torch.tensor([0.0, 0.5, 1.0])
    assert shift_sigma(sigma, 3.0).tolist() == [0.0, 0.75, 1.0]
    assert torch.equal(shift_sigma(sigma, 1.0), sigma)


@pytest.mark.parametrize("prediction", ["target"])
def test_a_noisy_picture_minus_sigma_times_target_is_the_picture(prediction: str) -> None:
    plan, generator = FlowSchedule(FLUX), torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(2, 4, 3, 5, generator=generator) for _ in range(2))
    sigma = torch.tensor([0.1, 1.0])
    noisy = plan.add_noise(latents, noise, sigma)
    back = noisy - sigma[:, None, None, None] * getattr(plan, prediction)(latents, noise, sigma)
    torch.testing.assert_close(back, latents, atol=1e-6, rtol=1e-5)
    assert torch.equal(noisy[1], noise[1])


def test_low_precision_latents_are_mixed_in_float32() -> None:
    plan, latents = FlowSchedule(FLUX), torch.full((1, 1, 1, 1), 3.0, dtype=torch.bfloat16)
    noisy = plan.add_noise(latents, torch.zeros(1, 1, 1, 1), torch.tensor([0.3]))
    assert noisy.dtype == torch.float32
    assert math.isclose(noisy.item(), 2.1, rel_tol=1e-6)
    assert plan.target(latents, latents, torch.tensor([0.3])).dtype == torch.float32


def test_settings_replace_the_familys_own() -> None:
    config = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256}
    own = flow_schedule(config | {"max_image_seq_len": 4096}, NoiseConfig(), patch=2)
    assert own == FlowSchedule(FLUX, Density("logit_normal", 0.0, 1.0))
    assert flow_schedule({"shift": 3.0}, NoiseConfig(), patch=2).shift == StaticShift(3.0)
    assert flow_schedule(config, NoiseConfig(shift=2.0), patch=2).shift == StaticShift(2.0)
    assert flow_schedule(config, NoiseConfig(timestep_sampling="uniform"), patch=2).density.sampling == "uniform"


def test_flow_matching_is_never_weighted() -> None:
    assert FlowSchedule(FLUX).weight(torch.tensor([0.1, 0.9]), LossConfig()).tolist() == [1.0, 1.0]
