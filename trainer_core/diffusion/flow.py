"""Flow matching: x_t = (1 - s) * x0 + s * noise, with target noise - x0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer_core.diffusion.density import Density
from trainer_core.diffusion.shift import StaticShift, TokenShift
from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Size, Tensor

    from trainer_core.config.groups import LossConfig, NoiseConfig


@dataclass(frozen=True)
class FlowSchedule:
    """Straight paths between picture and noise; a timestep is sigma, the share of noise, in (0, 1]."""

    shift: StaticShift | TokenShift
    density: Density = Density("logit_normal")

    def timesteps(self, u: Tensor, latents_shape: Size) -> Tensor:
        """Map u [B] in [0, 1) to sigma [B] float32: drawn from the distribution, shifted for the picture's size."""
        return self.density.shares(u, self.shift.factor(latents_shape))

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return (1 - s) * latents + s * noise, float32."""
        sigma = timesteps.float().reshape(-1, *[1] * (latents.ndim - 1))
        return (1.0 - sigma) * latents.float() + sigma * noise.float()

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return noise - latents, float32: the same at every timestep."""
        return noise.float() - latents.float()

    def noise_share(self, timesteps: Tensor) -> Tensor:
        """Return sigma."""
        return timesteps.float()

    def snr(self, timesteps: Tensor) -> Tensor:
        """Return ((1 - s) / s)^2 [B], float32."""
        sigma = timesteps.float()
        return ((1.0 - sigma) / sigma).square()

    def weight(self, timesteps: Tensor, loss: LossConfig) -> Tensor:
        """Return ones [B]: flow matching needs no weighting."""
        return torch.ones_like(timesteps, dtype=torch.float32)


def flow_schedule(scheduler: Mapping[str, Any], noise: NoiseConfig, patch: int) -> FlowSchedule:
    """Return the schedule of a scheduler's config, with what the user set in its place.

    Args:
        scheduler: Config of a FlowMatchEulerDiscreteScheduler.
        noise: a `shift` other than 0 replaces the family's own; `auto` sampling is logit-normal.
        patch: Side of the square of latent pixels that makes one token.
    """
    density = Density.of(noise, "logit_normal")
    # `sigmoid` is by its definition not shifted
    shift = StaticShift(1.0) if density.sampling == "sigmoid" else _shift(scheduler, noise, patch)
    return FlowSchedule(shift, density)


def _shift(scheduler: Mapping[str, Any], noise: NoiseConfig, patch: int) -> StaticShift | TokenShift:
    if noise.shift == "resolution":
        return TokenShift(patch=patch)
    return StaticShift(noise.shift) if noise.shift else _own_shift(scheduler, patch)


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
