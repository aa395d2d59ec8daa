"""Chroma, with the mask of its pipeline as booleans: diffusers adds a mask of numbers to the scores of attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.contract.models.base import Controls, Model, stock_pipeline
from tests.tiny.chroma import build_chroma
from trainer_core.types import Conditioning, TextCondition


def pipeline(folder: Path) -> Any:
    pipe = stock_pipeline(folder)
    stock = pipe._prepare_attention_mask

    def as_booleans(**given: Any) -> Any:
        mask = stock(**given)
        return None if mask is None else mask.bool()

    pipe._prepare_attention_mask = as_booleans
    return pipe


def text(pipe: Any, captions: Sequence[str], controls: Controls) -> list[TextCondition]:
    embeds, _, mask, *_ = pipe.encode_prompt(list(captions), do_classifier_free_guidance=False)
    return [TextCondition(row[kept.bool()]) for row, kept in zip(embeds, mask, strict=True)]


def predict(pipe: Any, noisy: Tensor, timesteps: Tensor, text: TextCondition, given: Conditioning) -> Tensor:
    batch, channels, height, width = noisy.shape
    output = pipe.transformer(
        hidden_states=pipe._pack_latents(noisy, batch, channels, height, width),
        timestep=timesteps,
        encoder_hidden_states=text.embeds,
        txt_ids=torch.zeros(text.embeds.shape[1], 3),
        img_ids=pipe._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", noisy.dtype),
        attention_mask=torch.ones(batch, text.embeds.shape[1] + height * width // 4, dtype=torch.bool),
    ).sample
    return pipe._unpack_latents(output, height * 8, width * 8, 8)


def unpack(pipe: Any, tensor: Tensor) -> Tensor:
    return pipe._unpack_latents(tensor, 64, 96, 8)


def with_bool_mask(call: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline's call with captions cut after the longest one's pad, and zeros in place of the other pads."""
    length = call["encoder_hidden_states"].shape[1]
    captions, latents = call["attention_mask"][:, :length], call["attention_mask"][:, length:]
    longest = int(captions.sum(dim=1).max())
    mask = captions[:, :longest]
    return {
        **call,
        "encoder_hidden_states": call["encoder_hidden_states"][:, :longest] * mask[..., None],
        "txt_ids": call["txt_ids"][:longest],
        "attention_mask": torch.cat([mask, latents], dim=1),
    }


CALL = {"guidance_scale": 1.0}
MODEL = Model(
    "chroma", build_chroma, text, predict, pipeline=pipeline, unpack=unpack, as_ours=with_bool_mask, call=CALL
)
