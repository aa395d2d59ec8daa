"""The facts about a family that the rules of settings ask for."""

from __future__ import annotations

from collections.abc import Mapping

from trainer_core.config.rules import Facts
from trainer_core.families.spec import FamilySpec
from trainer_core.types import JSON


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
        resolution=spec.resolution,
        resolution_range=spec.resolution_range,
    )


def native_resolution(spec: FamilySpec, denoiser: Mapping[str, JSON], vae: Mapping[str, JSON]) -> int:
    """Return the side in pixels of the square that a base was trained at.

    Args:
        spec: the family, or its variant.
        denoiser: config of its denoiser; may be empty.
        vae: config of its VAE, whose factor may be another than the family's in miniatures; may be empty.
    """
    size, factor = denoiser.get("sample_size"), spec.latents.factor
    if spec.components[spec.vae].loader == "AutoencoderKL" and (blocks := vae.get("block_out_channels")):
        factor = 2 ** (len(blocks) - 1)
    return size * factor if isinstance(size, int) and size > 0 else spec.resolution
