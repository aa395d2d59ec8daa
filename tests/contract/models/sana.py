"""Sana."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tests.contract.models.base import Controls, Model, without_pads
from tests.tiny.sana import build_sana
from trainer_core.types import Conditioning, TextCondition


def text(pipe: Any, captions: Sequence[str], controls: Controls) -> list[TextCondition]:
    instruction = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
    embeds, mask, _, _ = pipe.encode_prompt(list(captions), False, complex_human_instruction=instruction)
    return [TextCondition(row[kept.bool()]) for row, kept in zip(embeds, mask, strict=True)]


def predict(pipe: Any, noisy: Tensor, timesteps: Tensor, text: TextCondition, given: Conditioning) -> Tensor:
    return pipe.transformer(noisy, text.embeds, 1000 * timesteps).sample


def latents(pipe: Any, images: Tensor) -> Tensor:
    return pipe.vae.encode(images).latent * pipe.vae.config.scaling_factor


def sigma(pipe: Any, step: int) -> Tensor:
    """The DPM solver tells its denoiser whole thousandths."""
    return pipe.scheduler.timesteps[step] / 1000


CALL = {"guidance_scale": 1.0, "use_resolution_binning": False}
MODEL = Model("sana", build_sana, text, predict, latents=latents, as_ours=without_pads, sigma=sigma, call=CALL)
