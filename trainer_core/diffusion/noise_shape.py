"""What is done to white noise before it is added: offsets, coarser noises, and a disturbance that is not predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer_core.diffusion.noise import SeedPart, sample_noise, seeded

if TYPE_CHECKING:
    from trainer_core.config.groups import NoiseConfig


@dataclass(frozen=True)
class NoiseShape:
    """The settings that shape a sample's noise. All that is drawn is a function of the seed parts alone."""

    offset: float = 0.0
    adaptive_scale: float = 0.0
    multires_iterations: int = 0
    multires_discount: float = 0.3
    ip_gamma: float = 0.0

    @classmethod
    def of(cls, noise: NoiseConfig) -> NoiseShape:
        """Return the settings' shape."""
        return cls(
            noise.offset, noise.adaptive_scale, noise.multires_iterations, noise.multires_discount, noise.ip_gamma
        )

    def draw(self, seed_parts: tuple[SeedPart, ...], latents: Tensor) -> Tensor:
        """Return the noise [C, h, w] of a sample, float32 on the CPU: the one that is predicted.

        Args:
            seed_parts: what the noise is for: seed, epoch, sample id, repeat.
            latents: the sample's [C, h, w], normalised; read for `adaptive_scale` alone.
        """
        noise = sample_noise(seed_parts, tuple(latents.shape), self._strength(latents))
        if not self.multires_iterations:
            return noise
        return pyramid_noise(noise, seed_parts, self.multires_iterations, self.multires_discount)

    def perturbed(self, seed_parts: tuple[SeedPart, ...], noise: Tensor) -> Tensor:
        """Return noise [C, h, w] with `ip_gamma` times other noise added (input perturbation, arXiv 2301.11706)."""
        other = torch.randn(noise.shape, generator=seeded("ip", seed_parts), dtype=torch.float32)
        return noise + self.ip_gamma * other

    def _strength(self, latents: Tensor) -> float | Tensor:
        """Return the strength of the offset: for all channels, or [C, 1, 1] where it follows the latents."""
        if not self.adaptive_scale:
            return self.offset
        means = latents.float().mean(dim=(-2, -1), keepdim=True).abs().cpu()
        return (self.offset + self.adaptive_scale * means).clamp(min=0.0)


WHITE = NoiseShape()
"""Standard normal noise as it is."""


def pyramid_noise(noise: Tensor, seed_parts: tuple[SeedPart, ...], iterations: int, discount: float) -> Tensor:
    """Add noises of ever coarser grain, and scale the sum back to a standard deviation of 1.

    Level i has sides that are r^i times smaller, r drawn from [2, 4) for each level, and counts discount^i; level 0 is
    as fine as the noise itself. The levels end where a side is one pixel. Source: kohya's `pyramid_noise_like`, after
    J. Whitaker, "Multi-Resolution Noise for Diffusion Model Training".

    Args:
        noise: [C, h, w] float32.
        seed_parts: what the noise is for.
        iterations: how many levels.
        discount: strength of a level relative to the one before.
    """
    generator = seeded("multires", seed_parts)
    channels, height, width = noise.shape
    total = noise.clone()
    for level in range(iterations):
        ratio = (2.0 + 2.0 * torch.rand((), generator=generator).item()) ** level
        size = (max(1, int(height / ratio)), max(1, int(width / ratio)))
        coarse = torch.randn((1, channels, *size), generator=generator, dtype=torch.float32)
        total += torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0] * discount**level
        if 1 in size:
            break
    return total / total.std()
