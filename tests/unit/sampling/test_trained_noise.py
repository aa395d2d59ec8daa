"""Sampling with the noise that a LoRA was trained with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch

from trainer_core.config.groups import NoiseConfig
from trainer_core.sampling.trained_noise import use_trained_noise

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def scheduler(name: str, **config: Any) -> Any:
    import diffusers

    return getattr(diffusers, name)(**BETAS, **config)


def changed(given: Any, family: Literal["diffusion", "flow"] = "diffusion", **noise: Any) -> Any:
    pipeline = SimpleNamespace(scheduler=given)
    use_trained_noise(pipeline, NoiseConfig.model_validate(noise), family)
    return pipeline.scheduler


def test_a_scheduler_is_left_alone_unless_the_settings_change_the_noise() -> None:
    given = scheduler("EulerDiscreteScheduler")
    assert changed(given) is given
    assert changed(given, offset=0.1, timestep_sampling="logit_normal") is given
    assert changed(given, "flow", prediction="v_prediction") is given


@pytest.mark.setting("noise.prediction")
@pytest.mark.parametrize("name", ["PNDMScheduler", "DDIMScheduler", "EulerDiscreteScheduler"])
def test_a_scheduler_is_told_the_prediction(name: str) -> None:
    found = changed(scheduler(name, timestep_spacing="leading"), prediction="v_prediction")
    assert type(found).__name__ == name
    assert found.config.prediction_type == "v_prediction"
    assert found.config.timestep_spacing == "leading"


@pytest.mark.setting("noise.zero_terminal_snr")
@pytest.mark.parametrize(
    ("name", "used"),
    [
        ("PNDMScheduler", "DDIMScheduler"),
        ("DDIMScheduler", "DDIMScheduler"),
        ("EulerDiscreteScheduler", "EulerDiscreteScheduler"),
    ],
)
def test_sampling_begins_at_nothing_but_noise(name: str, used: str) -> None:
    found = changed(scheduler(name), zero_terminal_snr=True, prediction="v_prediction")
    assert type(found).__name__ == used
    assert found.alphas_cumprod[-1] < 1e-6
    assert scheduler(name).alphas_cumprod[-1] > 0.004
    found.set_timesteps(4)
    assert found.timesteps[0] == 999


def test_a_perfect_v_prediction_is_sampled_back_to_the_picture() -> None:
    found = changed(scheduler("PNDMScheduler"), zero_terminal_snr=True, prediction="v_prediction")
    found.set_timesteps(5)
    picture, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    noisy = noise
    for time in found.timesteps:
        kept = found.alphas_cumprod[time]
        left = (noisy - kept.sqrt() * picture) / (1 - kept).sqrt()
        noisy = found.step(kept.sqrt() * left - (1 - kept).sqrt() * picture, time, noisy).prev_sample
    torch.testing.assert_close(noisy, picture, atol=0.05, rtol=0.05)
