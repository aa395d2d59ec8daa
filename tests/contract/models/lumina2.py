"""Lumina-Image 2.0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.contract.models.base import Controls, Model, without_pads
from tests.tiny.lumina2 import build_lumina2
from trainer_core.types import Conditioning, TextCondition


def text(pipe: Any, captions: Sequence[str], controls: Controls) -> list[TextCondition]:
    embeds, mask, _, _ = pipe.encode_prompt(list(captions), do_classifier_free_guidance=False)
    return [TextCondition(row[kept.bool()]) for row, kept in zip(embeds, mask, strict=True)]


def predict(pipe: Any, noisy: Tensor, timesteps: Tensor, text: TextCondition, given: Conditioning) -> Tensor:
    mask = torch.ones(text.embeds.shape[:2], dtype=torch.int64)
    return -pipe.transformer(noisy, 1 - timesteps, text.embeds, mask).sample


MODEL = Model("lumina2", build_lumina2, text, predict, as_ours=without_pads, call={"guidance_scale": 1.0})
