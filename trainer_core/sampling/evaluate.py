"""Held-out loss: the training loss on pictures kept out of training, with noise and timesteps that never change.

Timesteps sit at fixed quantiles of the training distribution instead of random draws, so two runs differ by their
weights and nothing else (the idea of diffusion-pipe's evaluation, arXiv 2403.03206 for the distribution itself).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer_core.diffusion.loss import per_sample_mse
from trainer_core.diffusion.noise import sample_noise
from trainer_core.diffusion.schedule import NoiseSchedule
from trainer_core.errors import NonFiniteError
from trainer_core.families.family import Family
from trainer_core.types import Conditioning, Geometry, TextCondition

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where in the timestep distribution the loss is measured."""
NOISE_SEED = 0x5EED
"""Fixed for all projects, so that their held-out losses compare."""


@dataclass(frozen=True)
class HeldOut:
    """One held-out sample on the device: latents [C, h, w] float32, text unbatched."""

    sample_id: str
    latents: Tensor
    text: TextCondition
    geometry: Geometry
    controls: tuple[Tensor, ...] = ()
    """Latents of the control pictures, [C, h, w] each."""


@dataclass(frozen=True)
class Evaluator:
    """What the held-out loss is measured with."""

    family: Family
    schedule: NoiseSchedule
    device: torch.device
    dtype: torch.dtype
    guidance: float

    def losses(self, denoiser: Any, samples: Sequence[HeldOut], on_sample: Callable[[], None]) -> dict[str, float]:
        """Return sample id -> loss, the mean over `QUANTILES`.

        Raises:
            NonFiniteError: a loss is NaN or infinite; names the sample.
        """
        found: dict[str, float] = {}
        for sample in samples:
            loss = self._loss(denoiser, sample)
            if not math.isfinite(loss):
                raise NonFiniteError(f"the held-out loss of {sample.sample_id} is {loss}.", [sample.sample_id])
            found[sample.sample_id] = loss
            on_sample()
        return found

    # not inference mode: tensors that a model caches in that mode cannot be used in training later
    @torch.no_grad()
    def _loss(self, denoiser: Any, sample: HeldOut) -> float:
        count = len(QUANTILES)
        latents = sample.latents.to(self.device).expand(count, *sample.latents.shape)
        shape = tuple(sample.latents.shape)
        noise = torch.stack([sample_noise((NOISE_SEED, sample.sample_id, index), shape) for index in range(count)])
        noise = noise.to(self.device)
        timesteps = self.schedule.timesteps(torch.tensor(QUANTILES, device=self.device), latents.shape)
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        text = _repeated(sample.text, count, self.device, self.dtype)
        controls = [one.to(self.device, self.dtype).expand(count, *one.shape) for one in sample.controls]
        given = Conditioning(text, [sample.geometry] * count, controls, self.guidance)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            prediction = self.family.predict(denoiser, noisy.to(self.dtype), timesteps, given)
        return float(per_sample_mse(prediction, self.schedule.target(latents, noise, timesteps)).mean())


def _repeated(text: TextCondition, count: int, device: torch.device, dtype: torch.dtype) -> TextCondition:
    def repeat(tensor: Tensor | None, to: torch.dtype | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device, to).expand(count, *tensor.shape)

    embeds = repeat(text.embeds, dtype)
    assert embeds is not None
    return TextCondition(embeds, repeat(text.pooled, dtype), repeat(text.mask, None))
