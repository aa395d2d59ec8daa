"""How prompts reach a pipeline: as text, or encoded as captions are where the pipeline would read them otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from trainer_core.types import JSON

if TYPE_CHECKING:
    from PIL import Image

    from trainer_core.families.family import Family
    from trainer_core.sampling.render import Inputs
    from trainer_core.stages.project.session import Session


def prompt_inputs(session: Session) -> Inputs:
    """Return what gives a pipeline its prompts: the family's own way, or encoded by the settings of `text`.

    diffusers' pipelines cut prompts at 77 tokens, and their `clip_skip` fails with transformers 5.
    """
    own = session.family.pipeline_inputs
    return partial(encoded_inputs, session) if encoded_key(session) else own


def encoded_key(session: Session) -> list[JSON]:
    """Return the settings that prompts are encoded by, for keys; nothing where pipelines encode them."""
    spec, text = session.family.spec, session.project.text
    skipped = text.clip_skip if spec.text.clip_skip else 0
    tokens = text.clip_tokens if spec.text.long_captions else 75
    return [tokens, skipped] if skipped or tokens > 75 else []


def encoded_inputs(
    session: Session, pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Image.Image]
) -> dict[str, Any]:
    """Return both prompts encoded as captions are, by the pipeline's own encoders.

    Args:
        session: the open project, whose `text` settings count.
        pipeline: diffusers' pipeline of the family.
        prompt: what is wanted.
        negative_prompt: what is not; may be empty.
        controls: ignored, as no family with control pictures reads long captions.
    """
    import torch

    family: Family = session.family
    encoders = {name: getattr(pipeline, name) for name in family.spec.text_components}
    with torch.no_grad():
        # one by one, as pipelines do: a batch of two has other last bits
        wanted, unwanted = (
            family.encode_text(encoders, [one], session.project.text)[0] for one in (prompt, negative_prompt)
        )
    # SDXL: its pipeline reads no negative prompt as zeros, not as an empty text
    nothing = not negative_prompt and pipeline.config.get("force_zeros_for_empty_prompt", False)
    inputs: dict[str, Any] = {}
    for name, text, zero in (("", wanted, False), ("negative_", unwanted, nothing)):
        for part, tensor in (("prompt_embeds", text.embeds), ("pooled_prompt_embeds", text.pooled)):
            if tensor is not None:
                inputs[name + part] = torch.zeros_like(tensor)[None] if zero else tensor[None]
    return inputs
