"""FLUX.1 Kontext."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.contract.models.base import Model
from tests.contract.models.flux1 import text
from tests.tiny.flux1_kontext import build_flux1_kontext
from trainer_core.types import Conditioning, TextCondition

TOKENS = 4 * 6
"""Of the pictures that the tests sample, 64 x 96 pixels."""


def predict(pipe: Any, noisy: Tensor, timesteps: Tensor, text: TextCondition, given: Conditioning) -> Tensor:
    batch, channels, height, width = noisy.shape
    control = given.controls[0]
    rows, columns = control.shape[2:]
    ids = [
        pipe._prepare_latent_image_ids(batch, side // 2, other // 2, "cpu", noisy.dtype)
        for side, other in ((height, width), (rows, columns))
    ]
    ids[1][..., 0] = 1
    packed = [
        pipe._pack_latents(noisy, batch, channels, height, width),
        pipe._pack_latents(control, batch, channels, rows, columns),
    ]
    output = pipe.transformer(
        hidden_states=torch.cat(packed, dim=1),
        timestep=timesteps,
        guidance=torch.full((batch,), given.guidance),
        pooled_projections=text.pooled,
        encoder_hidden_states=text.embeds,
        txt_ids=torch.zeros(text.embeds.shape[1], 3),
        img_ids=torch.cat(ids),
    ).sample
    return pipe._unpack_latents(output[:, : packed[0].shape[1]], height * 8, width * 8, 8)


def unpack(pipe: Any, tensor: Tensor) -> Tensor:
    return pipe._unpack_latents(tensor[:, :TOKENS], 64, 96, 8)


def controls_of(pipe: Any, call: Mapping[str, Any]) -> tuple[Tensor, ...]:
    return (pipe._unpack_latents(call["hidden_states"][:, TOKENS:], 96, 64, 8),)


# The pipeline would scale everything to a megapixel.
CALL = {"max_area": 64 * 96, "_auto_resize": False}
MODEL = Model(
    "flux1",
    build_flux1_kontext,
    text,
    predict,
    unpack=unpack,
    controls_of=controls_of,
    call=CALL,
    controls=1,
)
