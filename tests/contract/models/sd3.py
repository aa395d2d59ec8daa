"""Stable Diffusion 3.5 medium."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tests.contract.models.base import Controls, Model
from tests.tiny.sd3 import build_sd3
from trainer_core.types import Conditioning, TextCondition


def text(pipe: Any, captions: Sequence[str], controls: Controls) -> list[TextCondition]:
    prompts = [list(captions)] * 3
    embeds, _, pooled, _ = pipe.encode_prompt(*prompts, do_classifier_free_guidance=False)
    return [TextCondition(*row) for row in zip(embeds, pooled, strict=True)]


def predict(pipe: Any, noisy: Tensor, timesteps: Tensor, text: TextCondition, given: Conditioning) -> Tensor:
    return pipe.transformer(noisy, text.embeds, text.pooled, 1000 * timesteps).sample


# Guidance above 1 would make the pipeline predict twice a step.
MODEL = Model("sd3", build_sd3, text, predict, call={"guidance_scale": 1.0})
