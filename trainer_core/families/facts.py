"""The facts about a family that the rules of settings ask for."""

from __future__ import annotations

from trainer_core.config.rules import Facts
from trainer_core.families.spec import FamilySpec


def family_facts(spec: FamilySpec) -> Facts:
    """Return the facts that a family's spec gives, without a base model."""
    return Facts(
        prediction=spec.prediction,
        title=spec.title,
        trainable_text_encoders=tuple(spec.text.lora),
        reads_clip_tokens=spec.text.long_captions,
        skips_clip_layers=spec.text.clip_skip,
        chooses_text_length=spec.text.choosable_length,
        overflows_in_fp16=spec.overflows_in_fp16,
    )
