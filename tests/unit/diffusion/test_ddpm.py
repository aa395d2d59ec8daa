"""DDPM noise levels, against diffusers' own scheduler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer_core.config.groups import LossConfig, NoiseConfig
from trainer_core.diffusion.ddpm import DDPMSchedule, ddpm_schedule
from trainer_core.errors import ModelError

SD: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = torch.Size((1, 4, 8, 8))


def plan(**config: Any) -> DDPMSchedule:
    """Return Stable Diffusion's schedule with some settings replaced."""
    return ddpm_schedule(SD | config, NoiseConfig())


@pytest.mark.parametrize(
    "config",
    [
        SD,
        {},
        {"beta_schedule": "linear", "num_train_timesteps": 500},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": [0.1, 0.2, 0.3]},
        SD | {"rescale_betas_zero_snr": True},
    ],
)
def test_the_table_is_that_of_diffusers(config: dict[str, Any]) -> None:
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler.from_config(config).alphas_cumprod
    torch.testing.assert_close(ddpm_schedule(config, NoiseConfig()).alphas_cumprod, theirs, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noise_and_targets_are_those_of_diffusers(prediction: str) -> None:
    from diffusers import DDPMScheduler

    theirs, ours = DDPMScheduler(**SD), plan(prediction_type=prediction)
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    times = torch.tensor([0, 500, 999])
    assert torch.equal(ours.add_noise(latents, noise, times), theirs.add_noise(latents, noise, times))
    wanted = noise if prediction == "epsilon" else theirs.get_velocity(latents, noise, times)
    assert torch.equal(ours.target(latents, noise, times), wanted)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_follow_the_paper(prediction: str, gamma: float) -> None:
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    times = torch.arange(1000)
    snr = compute_snr(DDPMScheduler(**SD), times)
    divisor = snr if prediction == "epsilon" else snr + 1
    wanted = snr.clamp(max=gamma) / divisor
    found = plan(prediction_type=prediction).weight(times, LossConfig(min_snr_gamma=gamma))
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)


def test_gamma_0_weighs_all_timesteps_alike() -> None:
    assert plan().weight(torch.tensor([0, 500, 999]), LossConfig()).tolist() == [1.0, 1.0, 1.0]


@given(gamma=st.floats(0.01, 100), prediction=st.sampled_from(["epsilon", "v_prediction"]), zero=st.booleans())
def test_weights_are_finite_and_within_0_and_1_or_gamma(gamma: float, prediction: str, zero: bool) -> None:
    schedule = plan(prediction_type=prediction, rescale_betas_zero_snr=zero)
    weights = schedule.weight(torch.arange(1000), LossConfig(min_snr_gamma=gamma))
    assert torch.isfinite(weights).all()
    assert (weights >= 0).all()
    assert (weights <= max(1.0, gamma)).all()


@given(st.floats(0.0, 1.0 - 2.0**-24, width=32))
def test_timesteps_are_indices_of_the_table(u: float) -> None:
    for sampling in ("uniform", "logit_normal"):
        schedule = ddpm_schedule(SD, NoiseConfig(timestep_sampling=sampling))
        time = schedule.timesteps(torch.tensor([u]), SHAPE)
        assert time.dtype == torch.int64
        assert 0 <= time.item() < 1000


def test_every_timestep_is_drawn_equally_often() -> None:
    u = (torch.arange(10_000) + 0.5) / 10_000
    counts = plan().timesteps(u, SHAPE).bincount(minlength=1000)
    assert counts.shape == (1000,)
    assert counts.min() == counts.max() == 10


def test_a_mean_above_0_draws_noisier_timesteps() -> None:
    noisier = ddpm_schedule(SD, NoiseConfig(timestep_sampling="logit_normal", logit_mean=1.0))
    assert noisier.timesteps(torch.tensor([0.5]), SHAPE).item() == int(1000 * torch.sigmoid(torch.tensor(1.0)))


def test_an_unknown_beta_schedule_is_refused() -> None:
    with pytest.raises(ModelError, match="beta_schedule = laplace: known are linear"):
        plan(beta_schedule="laplace")


def test_an_unsupported_prediction_is_refused() -> None:
    with pytest.raises(ModelError, match="prediction_type = sample: wanted epsilon or v_prediction"):
        plan(prediction_type="sample")


def test_low_precision_latents_are_mixed_in_float32() -> None:
    latents = torch.ones(1, 4, 2, 2, dtype=torch.bfloat16)
    noisy = plan().add_noise(latents, torch.zeros(1, 4, 2, 2), torch.tensor([100]))
    assert noisy.dtype == torch.float32
    assert noisy.unique().item() == plan().alphas_cumprod[100].sqrt().item()
