"""What a training step asks of a noise schedule. Implementations: `ddpm.py` and `flow.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Size, Tensor

    from trainer_core.config.groups import LossConfig


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

    def noise_share(self, timesteps: Tensor) -> Tensor:
        """Return how far each timestep is on the way to pure noise: float32 [B] in [0, 1]."""
        ...

    def snr(self, timesteps: Tensor) -> Tensor:
        """Return the signal-to-noise ratio of each timestep: float32 [B], 0 where nothing but noise is left."""
        ...

    def weight(self, timesteps: Tensor, loss: LossConfig) -> Tensor:
        """Return the loss weight [B] of each sample, finite; ones unless the settings ask for more, and for flow."""
        ...
