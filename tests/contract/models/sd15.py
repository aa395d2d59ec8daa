"""Stable Diffusion 1.5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tests.contract.models.base import Controls, Model
from tests.tiny import build_sd15
from trainer_core.types import Conditioning, TextCondition


def text(pipe: Any, captions: Sequence[str], controls: Controls) -> list[TextCondition]:
    return [TextCondition(row) for row in pipe.encode_prompt(list(captions), "cpu", 1, False)[0]]


def predict(pipe: Any, noisy: Tensor, timesteps: Tensor, text: TextCondition, given: Conditioning) -> Tensor:
    return pipe.unet(noisy, timesteps, text.embeds).sample


MODEL = Model("sd15", build_sd15, text, predict)
