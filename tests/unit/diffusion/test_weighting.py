"""Weights of noise levels and thresholds of Huber losses, against their papers' and kohya's formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer_core.config.groups import LossConfig, NoiseConfig
from trainer_core.diffusion.ddpm import DDPMSchedule, ddpm_schedule
from trainer_core.diffusion.flow import FlowSchedule, flow_schedule
from trainer_core.diffusion.weighting import huber_thresholds

SD: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TIMES = torch.arange(1000)


def plan(told: str = "epsilon", **noise: Any) -> DDPMSchedule:
    """Return the schedule of a base whose scheduler tells this prediction."""
    return ddpm_schedule(SD | {"prediction_type": told}, NoiseConfig.model_validate(noise))


def flow() -> FlowSchedule:
    return flow_schedule({"shift": 1.0}, NoiseConfig(), patch=2)


def alphas() -> list[float]:
    """Return what is left of the picture's variance at each timestep, in float64."""
    kept, found = 1.0, list[float]()
    for index in range(1000):
        root = 0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * index / 999
        kept *= 1 - root**2
        found.append(kept)
    return found


SNRS = [kept / (1 - kept) for kept in alphas()]


def close(found: torch.Tensor, wanted: list[float]) -> None:
    torch.testing.assert_close(found.double(), torch.tensor(wanted).double(), atol=1e-5, rtol=1e-3)


@pytest.mark.setting("loss.min_snr_gamma")
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr(gamma: float) -> None:
    loss = LossConfig(min_snr_gamma=gamma)
    close(plan().weight(TIMES, loss), [min(snr, gamma) / snr for snr in SNRS])
    close(plan("v_prediction").weight(TIMES, loss), [min(snr, gamma) / (snr + 1) for snr in SNRS])


@pytest.mark.setting("loss.soft_min_snr", "loss.min_snr_gamma")
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_soft_min_snr(gamma: float) -> None:
    loss = LossConfig(min_snr_gamma=gamma, soft_min_snr=True)
    close(plan().weight(TIMES, loss), [1 / (snr / gamma + 1) for snr in SNRS])
    smooth = [snr * gamma / (snr + gamma) for snr in SNRS]
    close(plan("v_prediction").weight(TIMES, loss), [low / (snr + 1) for low, snr in zip(smooth, SNRS, strict=True)])


@pytest.mark.setting("loss.debiased")
def test_debiased_estimation() -> None:
    loss = LossConfig(debiased=True)
    close(plan().weight(TIMES, loss), [1 / math.sqrt(min(snr, 1000)) for snr in SNRS])
    close(plan("v_prediction").weight(TIMES, loss), [1 / (min(snr, 1000) + 1) for snr in SNRS])


@pytest.mark.setting("loss.debiased", "loss.min_snr_gamma")
def test_several_weights_multiply() -> None:
    both = plan().weight(TIMES, LossConfig(debiased=True, min_snr_gamma=5.0))
    alone = [plan().weight(TIMES, one) for one in (LossConfig(debiased=True), LossConfig(min_snr_gamma=5.0))]
    torch.testing.assert_close(both, alone[0] * alone[1])


@pytest.mark.setting("noise.zero_terminal_snr")
@given(
    prediction=st.sampled_from(["epsilon", "v_prediction"]),
    gamma=st.sampled_from([0.0, 5.0]),
    soft=st.booleans(),
    debiased=st.booleans(),
    schedule=st.sampled_from(["constant", "exponential", "snr"]),
)
def test_a_zero_terminal_snr_leaves_all_weights_and_thresholds_finite(
    prediction: str, gamma: float, soft: bool, debiased: bool, schedule: Any
) -> None:
    zero = plan(prediction, zero_terminal_snr=True)
    assert zero.snr(TIMES)[-1] == 0.0
    loss = LossConfig(min_snr_gamma=gamma, soft_min_snr=soft, debiased=debiased, huber_schedule=schedule)
    assert torch.isfinite(zero.weight(TIMES, loss)).all()
    assert torch.isfinite(huber_thresholds(zero, TIMES, loss)).all()


@pytest.mark.setting("noise.zero_terminal_snr")
def test_the_last_timestep_becomes_pure_noise_and_the_first_stays() -> None:
    from diffusers import DDPMScheduler

    zero = plan(zero_terminal_snr=True)
    theirs = DDPMScheduler(**SD, rescale_betas_zero_snr=True).alphas_cumprod
    torch.testing.assert_close(zero.alphas_cumprod, theirs, atol=1e-6, rtol=1e-6)
    assert zero.alphas_cumprod[0] == pytest.approx(plan().alphas_cumprod[0].item())
    assert plan().alphas_cumprod[-1] > 0.004
    noise = torch.randn(1, 4, 8, 8)
    assert torch.equal(zero.add_noise(torch.ones_like(noise), noise, torch.tensor([999])), noise)


@pytest.mark.setting("noise.prediction")
@pytest.mark.parametrize(("told", "wanted"), [("epsilon", "v_prediction"), ("v_prediction", "epsilon")])
def test_the_prediction_that_is_set_goes_before_the_bases(told: str, wanted: str) -> None:
    from diffusers import DDPMScheduler

    chosen = plan(told, prediction=wanted)
    latents, noise, times = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([100, 900])
    velocity = DDPMScheduler(**SD).get_velocity(latents, noise, times)
    target = velocity if wanted == "v_prediction" else noise
    torch.testing.assert_close(chosen.target(latents, noise, times), target)
    loss = LossConfig(min_snr_gamma=5.0)
    assert torch.equal(chosen.weight(TIMES, loss), plan(wanted).weight(TIMES, loss))


@pytest.mark.setting("loss.huber_c", "loss.huber_schedule")
@pytest.mark.parametrize("c", [0.01, 0.1, 1.0])
def test_thresholds_of_diffusion_are_kohyas(c: float) -> None:
    def found(schedule: Any) -> torch.Tensor:
        return huber_thresholds(plan(), TIMES, LossConfig(huber_c=c, huber_schedule=schedule))

    close(found("constant"), [c] * 1000)
    close(found("exponential"), [math.exp(math.log(c) / 1000 * time) for time in range(1000)])
    sigmas = [((1 - kept) / kept) ** 0.5 for kept in alphas()]
    close(found("snr"), [(1 - c) / (1 + sigma) ** 2 + c for sigma in sigmas])


@pytest.mark.setting("loss.huber_c", "loss.huber_schedule")
def test_thresholds_of_flow_matching_go_by_sigma() -> None:
    sigma = torch.tensor([1e-30, 0.25, 0.5, 1.0])

    def found(schedule: Any) -> list[float]:
        return huber_thresholds(flow(), sigma, LossConfig(huber_c=0.1, huber_schedule=schedule)).tolist()

    assert found("constant") == pytest.approx([0.1] * 4)
    assert found("exponential") == pytest.approx([0.1**0.0, 0.1**0.25, 0.1**0.5, 0.1])
    assert found("snr") == pytest.approx([0.9 * (1 - s) ** 2 + 0.1 for s in (0.0, 0.25, 0.5, 1.0)])
