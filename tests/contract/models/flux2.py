"""FLUX.2-dev."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.contract.models.base import Controls, Model
from tests.tiny.flux2 import build_flux2
from trainer_core.types import Conditioning, TextCondition

ROWS, COLUMNS = 4, 6
"""Tokens of the pictures that the tests sample, 64 x 96 pixels."""


def pipeline(folder: Path) -> Any:
    """Load a pipeline as a user of diffusers does, with the bare tokenizer where there is no torchvision."""
    from diffusers import DiffusionPipeline
    from transformers import PixtralProcessor, PreTrainedTokenizerFast
    from transformers.utils.import_utils import is_torchvision_available

    loader = PixtralProcessor if is_torchvision_available() else PreTrainedTokenizerFast
    pipe = DiffusionPipeline.from_pretrained(folder, tokenizer=None)
    pipe.register_modules(tokenizer=loader.from_pretrained(folder / "tokenizer"))
    return pipe


def text(pipe: Any, captions: Sequence[str], controls: Controls) -> list[TextCondition]:
    return [TextCondition(row) for row in pipe.encode_prompt(list(captions))[0]]


def latents(pipe: Any, images: Tensor) -> Tensor:
    return pipe._encode_vae_image(images, torch.Generator())


def predict(pipe: Any, noisy: Tensor, timesteps: Tensor, text: TextCondition, given: Conditioning) -> Tensor:
    batch = len(noisy)
    ids = [pipe._prepare_latent_ids(noisy)]
    if given.controls:
        ids.append(pipe._prepare_image_ids([control[:1] for control in given.controls]).expand(batch, -1, -1))
    packed = [pipe._pack_latents(one) for one in (noisy, *given.controls)]
    guided = pipe.transformer.config.guidance_embeds
    output = pipe.transformer(
        hidden_states=torch.cat(packed, dim=1),
        timestep=timesteps,
        guidance=torch.full((batch,), given.guidance) if guided else None,
        encoder_hidden_states=text.embeds,
        txt_ids=pipe._prepare_text_ids(text.embeds),
        img_ids=torch.cat(ids, dim=1),
    ).sample
    output = output[:, : packed[0].shape[1]]
    return torch.stack([_grid(tokens, *noisy.shape[2:]) for tokens in output])


def unpack(pipe: Any, tensor: Tensor) -> Tensor:
    return torch.stack([_grid(tokens, ROWS, COLUMNS) for tokens in tensor[:, : ROWS * COLUMNS]])


def controls_of(pipe: Any, call: Mapping[str, Any]) -> tuple[Tensor, ...]:
    times = call["img_ids"][0, :, 0]
    found: list[Tensor] = []
    for time in sorted(set(times.tolist()) - {0}):
        rows, columns = (call["img_ids"][0, times == time].max(dim=0).values[1:3] + 1).tolist()
        tokens = call["hidden_states"][:, times == time]
        found.append(torch.stack([_grid(one, rows, columns) for one in tokens]))
    return tuple(found)


def _grid(tokens: Tensor, rows: int, columns: int) -> Tensor:
    return tokens.reshape(rows, columns, -1).permute(2, 0, 1)


MODEL = Model(
    "flux2",
    build_flux2,
    text,
    predict,
    pipeline=pipeline,
    latents=latents,
    unpack=unpack,
    controls_of=controls_of,
    controls=2,
)
