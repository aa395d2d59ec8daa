"""Held-out loss: the training loss on pictures kept out of training, with noise and timesteps that never change.

Timesteps sit at fixed quantiles of the training distribution instead of random draws, so two runs differ by their
weights and nothing else (the idea of diffusion-pipe's evaluation, arXiv 2403.03206 for the distribution itself).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from trainer_core.data.epoch.held_out import LEVELS
from trainer_core.diffusion.loss import per_sample_mse
from trainer_core.diffusion.noise import sample_noise
from trainer_core.diffusion.schedule import NoiseSchedule
from trainer_core.errors import NonFiniteError
from trainer_core.families.family import Family
from trainer_core.hardware.out_of_memory import in_smaller_batches
from trainer_core.types import Conditioning, Geometry, TextCondition

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where in the timestep distribution the loss is measured: its noise levels, which have numbers from 0."""
assert len(QUANTILES) == LEVELS
NOISE_SEED = 0x5EED
"""Fixed for all projects, so that their held-out losses compare."""
TOGETHER = 8
"""Forward passes that are computed at once where nothing else needs memory."""

Levels = Mapping[str, Sequence[int]]
"""Sample id -> numbers of the noise levels that it is measured at."""
Losses = dict[str, dict[int, float]]
"""Sample id -> number of a noise level -> loss."""


class EvaluationStopped(Exception):  # noqa: N818 - not an error: someone asked for it
    """The measurement was broken off, as it was asked to."""


@dataclass(frozen=True)
class HeldOut:
    """One held-out sample on the device: latents [C, h, w] float32, text unbatched."""

    sample_id: str
    latents: Tensor
    text: TextCondition
    geometry: Geometry
    controls: tuple[Tensor, ...] = ()
    """Latents of the control pictures, [C, h, w] each."""


def all_levels(samples: Sequence[HeldOut]) -> Levels:
    """Return that every sample is measured at every level."""
    return {sample.sample_id: range(LEVELS) for sample in samples}


def means(losses: Losses) -> dict[str, float]:
    """Return sample id -> mean of its losses."""
    return {name: fmean(by_level.values()) for name, by_level in losses.items()}


def mean_loss(losses: Losses) -> float:
    """Return the mean of all losses; each pair of a sample and a level counts the same."""
    return fmean(loss for by_level in losses.values() for loss in by_level.values())


@dataclass(frozen=True)
class Evaluator:
    """What the held-out loss is measured with."""

    family: Family
    schedule: NoiseSchedule
    device: torch.device
    dtype: torch.dtype
    guidance: float
    together: int = TOGETHER
    """Forward passes that are computed at once, of samples of one size."""
    should_stop: Callable[[], bool] = lambda: False
    """Asked before every batch; True breaks the measurement off."""

    def losses(
        self, denoiser: Any, samples: Sequence[HeldOut], levels: Levels, on_sample: Callable[[], None]
    ) -> Losses:
        """Return the losses of samples at some noise levels each.

        Args:
            denoiser: predicts, on the device.
            samples: the held-out samples; those that `levels` does not name are left out.
            levels: what is measured.
            on_sample: called when all losses of a sample are known.

        Raises:
            NonFiniteError: a loss is NaN or infinite; names the sample.
            EvaluationStopped: it was asked to stop.
        """
        found: Losses = {}
        for batch in self._batches(samples, levels):
            if self.should_stop():
                raise EvaluationStopped
            for (sample, level), loss in zip(batch, self._losses_that_fit(denoiser, batch), strict=True):
                if not math.isfinite(loss):
                    raise NonFiniteError(f"the held-out loss of {sample.sample_id} is {loss}.", [sample.sample_id])
                of_sample = found.setdefault(sample.sample_id, {})
                of_sample[level] = loss
                if len(of_sample) == len(levels[sample.sample_id]):
                    on_sample()
        return found

    def _batches(self, samples: Sequence[HeldOut], levels: Levels) -> Iterator[list[tuple[HeldOut, int]]]:
        """Yield pairs that need no padding beside one another: a loss must not depend on its neighbours."""
        groups: dict[tuple[Any, ...], list[tuple[HeldOut, int]]] = {}
        for sample in samples:
            pairs = [(sample, level) for level in levels.get(sample.sample_id, ())]
            groups.setdefault(_shape(sample), []).extend(pairs)
        for pairs in groups.values():
            for start in range(0, len(pairs), self.together):
                yield pairs[start : start + self.together]

    def _losses_that_fit(self, denoiser: Any, batch: Sequence[tuple[HeldOut, int]]) -> list[float]:
        """Return the losses of a batch, in smaller ones where memory runs out."""
        parts = in_smaller_batches(
            lambda start, end: self._loss(denoiser, batch[start:end]).tolist(), len(batch), len(batch)
        )
        return [loss for part in parts for loss in part]

    # not inference mode: tensors that a model caches in that mode cannot be used in training later
    @torch.no_grad()
    def _loss(self, denoiser: Any, batch: Sequence[tuple[HeldOut, int]]) -> Tensor:
        """Return the losses [B] of a batch, float32 on the device."""
        samples = [sample for sample, _ in batch]
        latents = torch.stack([sample.latents for sample in samples]).to(self.device)
        noises = [sample_noise((NOISE_SEED, one.sample_id, level), tuple(one.latents.shape)) for one, level in batch]
        noise = torch.stack(noises).to(self.device)
        quantiles = torch.tensor([QUANTILES[level] for _, level in batch], device=self.device)
        timesteps = self.schedule.timesteps(quantiles, latents.shape)
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        controls = [
            torch.stack(of_each).to(self.device, self.dtype)
            for of_each in zip(*(one.controls for one in samples), strict=True)
        ]
        text = self._text([sample.text for sample in samples])
        given = Conditioning(text, [sample.geometry for sample in samples], controls, self.guidance)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            prediction = self.family.predict(denoiser, noisy.to(self.dtype), timesteps, given)
        return per_sample_mse(prediction, self.schedule.target(latents, noise, timesteps))

    def _text(self, texts: Sequence[TextCondition]) -> TextCondition:
        pooled = [text.pooled for text in texts if text.pooled is not None]
        masks = [text.mask for text in texts if text.mask is not None]
        return TextCondition(
            torch.stack([text.embeds for text in texts]).to(self.device, self.dtype),
            torch.stack(pooled).to(self.device, self.dtype) if pooled else None,
            torch.stack(masks).to(self.device) if masks else None,
        )


def _shape(sample: HeldOut) -> tuple[Any, ...]:
    """Return what samples of one batch must share."""
    text = sample.text
    parts = (sample.latents, *sample.controls, text.embeds)
    return (*(tuple(part.shape) for part in parts), text.pooled is None, text.mask is None)
