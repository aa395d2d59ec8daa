"""Stable Diffusion XL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.contract.models.base import Controls, Model
from tests.tiny import build_sdxl
from trainer_core.types import Conditioning, TextCondition


def text(pipe: Any, captions: Sequence[str], controls: Controls) -> list[TextCondition]:
    embeds, _, pooled, _ = pipe.encode_prompt(list(captions), do_classifier_free_guidance=False)
    return [TextCondition(*row) for row in zip(embeds, pooled, strict=True)]


def predict(pipe: Any, noisy: Tensor, timesteps: Tensor, text: TextCondition, given: Conditioning) -> Tensor:
    assert text.pooled is not None
    width = text.pooled.shape[-1]
    sizes = [pipe._get_add_time_ids(g.original, g.crop, g.target, text.embeds.dtype, width) for g in given.geometries]
    added = {"text_embeds": text.pooled, "time_ids": torch.cat(sizes)}
    return pipe.unet(noisy, timesteps, text.embeds, added_cond_kwargs=added).sample


# The sizes are those of the first geometry of the tests.
CALL = {"original_size": (300, 500), "crops_coords_top_left": (0, 5), "target_size": (64, 96)}
MODEL = Model("sdxl", build_sdxl, text, predict, call=CALL)
