"""What a training step asks of a noise schedule. Implementations: `ddpm.py` and `flow.py`."""

from __future__ import annotations

from typing import Protocol

from torch import Size, Tensor


class NoiseSchedule(Protocol):
    """Noise levels and targets as pure functions. Mathematics in float32; B = batch."""

    def timesteps(self, u: Tensor, latents_shape: Size) -> Tensor:
        """Map u [B], uniform in [0, 1), to timesteps [B] by the inverse of the sampling distribution's CDF.

        Diffusion: int64 in [0, 1000). Flow: sigma (share of noise), float32 in (0, 1].
        """
        ...

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t in float32; latents and noise [B, C, h, w]."""
        ...

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the denoiser should predict, float32."""
        ...

    def weight(self, timesteps: Tensor, min_snr_gamma: float) -> Tensor:
        """Return the loss weight [B] of each sample; ones when `min_snr_gamma` is 0 or the family is flow matching."""
        ...
