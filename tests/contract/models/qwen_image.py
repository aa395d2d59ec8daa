"""Qwen-Image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.contract.models.base import Controls, Model
from tests.tiny.qwen_image import build_qwen_image
from trainer_core.types import Conditioning, TextCondition


def text(pipe: Any, captions: Sequence[str], controls: Controls) -> list[TextCondition]:
    embeds, mask = pipe.encode_prompt(list(captions))
    masks = [None] * len(captions) if mask is None else [row.bool() for row in mask]
    return [TextCondition(row if real is None else row[real]) for row, real in zip(embeds, masks, strict=True)]


def latents(pipe: Any, images: Tensor) -> Tensor:
    mode = pipe.vae.encode(images.unsqueeze(2)).latent_dist.mode()
    mean = torch.tensor(pipe.vae.config.latents_mean).view(1, -1, 1, 1, 1)
    deviation = torch.tensor(pipe.vae.config.latents_std).view(1, -1, 1, 1, 1)
    return ((mode - mean) / deviation).squeeze(2)


def predict(pipe: Any, noisy: Tensor, timesteps: Tensor, text: TextCondition, given: Conditioning) -> Tensor:
    batch, channels, height, width = noisy.shape
    packed = [pipe._pack_latents(one, batch, channels, *one.shape[2:]) for one in (noisy, *given.controls)]
    sizes = [(1, one.shape[2] // 2, one.shape[3] // 2) for one in (noisy, *given.controls)]
    output = pipe.transformer(
        hidden_states=torch.cat(packed, dim=1),
        timestep=timesteps,
        encoder_hidden_states=text.embeds,
        encoder_hidden_states_mask=text.mask,
        img_shapes=[sizes] * batch,
    ).sample
    return pipe._unpack_latents(output[:, : packed[0].shape[1]], height * 8, width * 8, 8).squeeze(2)


def unpack(pipe: Any, tensor: Tensor) -> Tensor:
    """Of a sequence that may go on with control pictures, the picture alone."""
    return pipe._unpack_latents(tensor[:, :24], 64, 96, 8).squeeze(2)


def controls_of(pipe: Any, call: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Cut a call's sequence where its `img_shapes` say, and leave out the first picture."""
    sizes = call["img_shapes"][0]
    parts = call["hidden_states"].split([height * width for _, height, width in sizes], dim=1)
    pairs = list(zip(parts, sizes, strict=True))[1:]
    return tuple(
        pipe._unpack_latents(part, height * 16, width * 16, 8).squeeze(2) for part, (_, height, width) in pairs
    )


MODEL = Model("qwen_image", build_qwen_image, text, predict, latents=latents, unpack=unpack)
