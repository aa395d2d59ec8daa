"""How prompts reach a pipeline: as text, or encoded as captions are where the pipeline would read them otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from trainer_core.config.groups import TextConfig
from trainer_core.families.family import Family, FamilySpec
from trainer_core.lazy import torch
from trainer_core.types import JSON

if TYPE_CHECKING:
    from PIL import Image

    from trainer_core.sampling.render import Inputs


def prompt_inputs(family: Family, text: TextConfig) -> Inputs:
    """Return what gives a pipeline its prompts: the family's own way, or encoded by the settings of `text`.

    diffusers' pipelines cut prompts at 77 tokens, and their `clip_skip` fails with transformers 5.
    """
    return partial(encoded_inputs, family, text) if encoded_key(family.spec, text) else family.pipeline_inputs


def encoded_key(spec: FamilySpec, text: TextConfig) -> list[JSON]:
    """Return the settings that prompts are encoded by, for keys; empty where pipelines encode them."""
    skipped = text.clip_skip if spec.text.clip_skip else 0
    tokens = text.clip_tokens if spec.text.long_captions else 75
    return [tokens, skipped] if skipped or tokens > 75 else []


def encoded_inputs(  # noqa: PLR0913 - `Inputs`, and what captions are encoded with
    family: Family, text: TextConfig, pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]
) -> dict[str, Any]:
    """Return both prompts encoded as captions are, by the pipeline's own encoders.

    Args:
        family: encodes the prompts.
        text: the settings that captions are encoded with.
        pipeline: diffusers' pipeline of the family.
        prompt: what is wanted.
        negative_prompt: what is not; may be empty.
        controls: ignored, as no family with control pictures reads long captions.
    """
    encoders = {name: getattr(pipeline, name) for name in family.spec.text_components}
    with torch.no_grad():
        # one by one, as pipelines do: a batch of two has other last bits
        wanted, unwanted = (family.encode_text(encoders, [words], text)[0] for words in (prompt, negative_prompt))
    # SDXL: its pipeline reads no negative prompt as zeros, not as an empty text
    nothing = not negative_prompt and pipeline.config.get("force_zeros_for_empty_prompt", False)
    inputs: dict[str, Any] = {}
    for name, condition, zero in (("", wanted, False), ("negative_", unwanted, nothing)):
        for part, tensor in (("prompt_embeds", condition.embeds), ("pooled_prompt_embeds", condition.pooled)):
            if tensor is not None:
                inputs[name + part] = torch.zeros_like(tensor)[None] if zero else tensor[None]
    return inputs
