"""The loss of a training step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer_core.adapters.adapter import ADAPTERS
from trainer_core.diffusion.loss import HUBER, per_sample_error, per_sample_mse, pixel_weights
from trainer_core.diffusion.weighting import huber_thresholds
from trainer_core.types import Batch, Conditioning, Sample, TextCondition

if TYPE_CHECKING:
    from trainer_core.config.groups import LossConfig
    from trainer_core.diffusion.schedule import NoiseSchedule
    from trainer_core.train.trainer import Trainer


def training_loss(trainer: Trainer, batch: Batch) -> Tensor:
    """Return the loss of a micro-batch, a float32 scalar.

    mean_b(w_b * mean(error(prediction - target))), where w_b is the weight of the timestep times that of the sample;
    with `loss.preservation_weight`, that times `preservation_loss` is added.
    """
    schedule, settings = trainer.schedule, trainer.project.loss
    if trainer.live_text is not None:
        batch = trainer.live_text.batch(batch, trainer.loader.device, trainer.loader.dtype)
    timesteps = schedule.timesteps(batch.u, batch.latents.shape)
    noise = batch.noise if batch.input_noise is None else batch.input_noise
    noisy = schedule.add_noise(batch.latents, noise, timesteps).to(trainer.loader.dtype)
    prediction = _predict(trainer, batch, batch.text, noisy, timesteps)
    target = schedule.target(batch.latents, batch.noise, timesteps)
    loss = weighted_error(prediction, target, batch, timesteps, schedule, settings)
    if settings.preservation_weight:
        loss = loss + settings.preservation_weight * preservation_loss(trainer, batch, noisy, timesteps)
    return loss


def weighted_error(
    prediction: Tensor, target: Tensor, batch: Batch, timesteps: Tensor, schedule: NoiseSchedule, settings: LossConfig
) -> Tensor:
    """Return mean_b(w_b * mean(error)), a float32 scalar; prediction and target [B, C, h, w]."""
    threshold = huber_thresholds(schedule, timesteps, settings) if settings.type in HUBER else None
    masks = batch.masks
    pixels = None if masks is None else pixel_weights(masks, settings.mask_floor, settings.normalise_masks)
    error = per_sample_error(prediction, target, settings.type, threshold, pixels)
    weight = schedule.weight(timesteps, settings)
    if batch.loss_weights is not None:
        weight = weight * batch.loss_weights
    return (weight * error).mean()


def preservation_loss(trainer: Trainer, batch: Batch, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """Return how far the adapter moves the base's prediction for the class, a float32 scalar (mean squared error).

    Both predict from the same noisy latents and the caption with the class in place of the trigger word, so that what
    is learnt stays with the trigger word (ai-toolkit's differential output preservation).
    """
    assert batch.class_text is not None, "output is preserved, but the batch has no captions of the class"
    with torch.no_grad(), ADAPTERS[trainer.project.adapter.type].disabled(trainer.denoiser):
        base = _predict(trainer, batch, batch.class_text, noisy, timesteps)
    adapted = _predict(trainer, batch, batch.class_text, noisy, timesteps)
    return per_sample_mse(adapted, base).mean()


def sample_weights(samples: Iterable[Sample], prior_weight: float) -> dict[str, float]:
    """Return sample id -> factor of its loss, for samples where that is not 1."""
    weights = {sample.id: sample.loss_weight * (prior_weight if sample.regularisation else 1.0) for sample in samples}
    return {name: weight for name, weight in weights.items() if weight != 1.0}


def _predict(trainer: Trainer, batch: Batch, text: TextCondition, noisy: Tensor, timesteps: Tensor) -> Tensor:
    given = Conditioning(text, batch.geometries, batch.controls, trainer.project.noise.guidance)
    with trainer.accelerator.autocast():
        return trainer.family.predict(trainer.denoiser, noisy, timesteps, given)
