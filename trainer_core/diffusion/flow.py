"""Flow matching: x_t = (1 - s) * x0 + s * noise, with target noise - x0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Size, Tensor

from trainer_core.diffusion.density import Sampling, chosen_sampling, noise_share
from trainer_core.diffusion.shift import StaticShift, TokenShift, shift_sigma

if TYPE_CHECKING:
    from trainer_core.config.groups import NoiseConfig


@dataclass(frozen=True)
class FlowSchedule:
    """Straight paths between picture and noise; a timestep is sigma, the share of noise, in (0, 1]."""

    shift: StaticShift | TokenShift
    sampling: Sampling = "logit_normal"
    logit_mean: float = 0.0
    logit_std: float = 1.0

    def timesteps(self, u: Tensor, latents_shape: Size) -> Tensor:
        """Map u [B] in [0, 1) to sigma [B] float32: drawn from the distribution, shifted for the picture's size."""
        share = noise_share(u, self.sampling, self.logit_mean, self.logit_std)
        return shift_sigma(share, self.shift.factor(latents_shape)).clamp(max=1.0)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return (1 - s) * latents + s * noise, float32."""
        sigma = timesteps.float().reshape(-1, *[1] * (latents.ndim - 1))
        return (1.0 - sigma) * latents.float() + sigma * noise.float()

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return noise - latents, float32: the same at every timestep."""
        return noise.float() - latents.float()

    def weight(self, timesteps: Tensor, min_snr_gamma: float) -> Tensor:
        """Return ones [B]: flow matching needs no weighting."""
        return torch.ones_like(timesteps, dtype=torch.float32)


def flow_schedule(scheduler: Mapping[str, Any], noise: NoiseConfig, patch: int) -> FlowSchedule:
    """Return the schedule of a scheduler's config, with what the user set in its place.

    Args:
        scheduler: Config of a FlowMatchEulerDiscreteScheduler.
        noise: `shift` above 0 replaces the family's own; `auto` sampling is logit-normal.
        patch: Side of the square of latent pixels that makes one token.
    """
    return FlowSchedule(
        shift=StaticShift(noise.shift) if noise.shift > 0 else _own_shift(scheduler, patch),
        sampling=chosen_sampling(noise.timestep_sampling, "logit_normal"),
        logit_mean=noise.logit_mean,
        logit_std=noise.logit_std,
    )


def _own_shift(scheduler: Mapping[str, Any], patch: int) -> StaticShift | TokenShift:
    if not scheduler.get("use_dynamic_shifting", False):
        return StaticShift(float(scheduler.get("shift", 1.0)))
    return TokenShift(
        base_shift=scheduler.get("base_shift", 0.5),
        max_shift=scheduler.get("max_shift", 1.15),
        base_tokens=scheduler.get("base_image_seq_len", 256),
        max_tokens=scheduler.get("max_image_seq_len", 4096),
        patch=patch,
    )
