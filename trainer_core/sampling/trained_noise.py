"""A pipeline's scheduler with the noise settings that the denoiser was trained with."""

from __future__ import annotations

import inspect
from typing import Any, Literal, Protocol


class TrainedNoise(Protocol):
    """The settings of the group `noise` that decide how one samples."""

    @property
    def prediction(self) -> str: ...  # noqa: D102
    @property
    def zero_terminal_snr(self) -> bool: ...  # noqa: D102


def use_trained_noise(pipeline: Any, noise: TrainedNoise, prediction: Literal["diffusion", "flow"]) -> None:
    """Sample with `noise.prediction` and `noise.zero_terminal_snr` in place of what the base's scheduler says.

    With a zero terminal SNR sampling must begin at the last timestep, hence trailing steps (arXiv 2305.08891); a
    scheduler that cannot rescale its betas gives way to DDIM. Flow families and unchanged settings are left alone.

    Args:
        pipeline: a diffusers pipeline; its scheduler is replaced.
        noise: the settings that the LoRA was trained with.
        prediction: the family's `spec.prediction`.
    """
    changes: dict[str, Any] = {}
    if noise.prediction != "auto":
        changes["prediction_type"] = noise.prediction
    if noise.zero_terminal_snr:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if prediction == "flow" or not changes:
        return
    kind: Any = type(pipeline.scheduler)
    if not changes.keys() <= inspect.signature(kind.__init__).parameters.keys():
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        # latents leave [-1, 1], where it would cut them off by itself
        kind, changes["clip_sample"] = DDIMScheduler, False
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **changes)
