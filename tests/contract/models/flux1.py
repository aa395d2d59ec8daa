"""FLUX.1-dev."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.contract.models.base import Controls, Model
from tests.tiny import build_flux1
from trainer_core.types import Conditioning, TextCondition


def text(pipe: Any, captions: Sequence[str], controls: Controls) -> list[TextCondition]:
    embeds, pooled, _ = pipe.encode_prompt(list(captions), list(captions), max_sequence_length=512)
    return [TextCondition(*row) for row in zip(embeds, pooled, strict=True)]


def predict(pipe: Any, noisy: Tensor, timesteps: Tensor, text: TextCondition, given: Conditioning) -> Tensor:
    batch, channels, height, width = noisy.shape
    output = pipe.transformer(
        hidden_states=pipe._pack_latents(noisy, batch, channels, height, width),
        timestep=timesteps,
        guidance=torch.full((batch,), given.guidance),
        pooled_projections=text.pooled,
        encoder_hidden_states=text.embeds,
        txt_ids=torch.zeros(text.embeds.shape[1], 3),
        img_ids=pipe._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", noisy.dtype),
    ).sample
    return pipe._unpack_latents(output, height * 8, width * 8, 8)


def unpack(pipe: Any, tensor: Tensor) -> Tensor:
    return pipe._unpack_latents(tensor, 64, 96, 8)


MODEL = Model("flux1", build_flux1, text, predict, unpack=unpack)
