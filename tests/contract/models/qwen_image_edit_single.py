"""The first Qwen-Image-Edit, which takes one control picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from tests.contract.models import qwen_image_edit as plus
from tests.contract.models.base import Controls
from tests.tiny.qwen_image import build_qwen_image_edit
from trainer_core.types import TextCondition


def text(pipe: Any, captions: Sequence[str], controls: Controls) -> list[TextCondition]:
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit import calculate_dimensions

    found: list[TextCondition] = []
    for caption, (picture,) in zip(captions, controls, strict=True):
        wide, high, _ = calculate_dimensions(1024 * 1024, picture.width / picture.height)
        chat = pipe.prompt_template_encode.format(caption)
        found.append(TextCondition(plus.states(pipe, chat, [pipe.image_processor.resize(picture, high, wide)])))
    return found


MODEL = replace(
    plus.MODEL,
    build=partial(build_qwen_image_edit, plus=False),
    text=text,
    inputs=partial(plus.encoded, read=text),
    controls=1,
)
