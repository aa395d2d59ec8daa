"""Qwen-Image-Edit 2509 (Edit-Plus), with two control pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image

from tests.contract.models.base import Controls, Model
from tests.contract.models.qwen_image import controls_of, latents, predict, unpack
from tests.tiny.qwen_image import build_qwen_image_edit
from tests.tiny.qwen_vl import load_with_processor
from trainer_core.types import TextCondition


def states(pipe: Any, chat: str, pictures: Sequence[Image.Image]) -> torch.Tensor:
    """What the pipeline encodes, and beside it `mm_token_type_ids`, which it forgets (diffusers issue 14194)."""
    inputs = pipe.processor(text=[chat], images=list(pictures), padding=True, return_tensors="pt")
    names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw", "mm_token_type_ids")
    output = pipe.text_encoder(**{name: inputs[name] for name in names}, output_hidden_states=True)
    return output.hidden_states[-1][0, pipe.prompt_template_encode_start_idx :]


def text(pipe: Any, captions: Sequence[str], controls: Controls) -> list[TextCondition]:
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

    found: list[TextCondition] = []
    for caption, pictures in zip(captions, controls, strict=True):
        sizes = [plus.calculate_dimensions(plus.CONDITION_IMAGE_SIZE, one.width / one.height) for one in pictures]
        sized = [
            pipe.image_processor.resize(one, high, wide) for one, (wide, high) in zip(pictures, sizes, strict=True)
        ]
        names = "".join(f"Picture {i + 1}: <|vision_start|><|image_pad|><|vision_end|>" for i in range(len(sized)))
        found.append(TextCondition(states(pipe, pipe.prompt_template_encode.format(names + caption), sized)))
    return found


def encoded(pipe: Any, captions: Sequence[str], controls: Controls, read: Any = text) -> Mapping[str, Any]:
    """The arguments of a call, with the prompt encoded by `read`: the pipeline's own encoding is another one."""
    embeds = read(pipe, captions[:1], controls[:1])[0].embeds[None]
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    pictures = controls[0] if len(controls[0]) > 1 else controls[0][0]
    return {"prompt_embeds": embeds, "prompt_embeds_mask": mask, "image": pictures}


MODEL = Model(
    "qwen_image_edit",
    build_qwen_image_edit,
    text,
    predict,
    pipeline=partial(load_with_processor, processor="processor"),
    latents=latents,
    unpack=unpack,
    controls_of=controls_of,
    inputs=encoded,
    captions=1,
    controls=2,
)
