"""Captions encoded by the text encoders, one content-addressed entry a caption, however many pictures share it.

Where the family's text encoder looks at the control pictures, an entry is a caption with its control pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trainer_core.errors import NonFiniteError
from trainer_core.stages.base import Item, Outcome, Stage, StageContext
from trainer_core.stages.entries import control_parts, entry_key, items_outcome, write_items
from trainer_core.stages.pictures import read_picture
from trainer_core.store.keys import digest
from trainer_core.types import JSON, Sample

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from trainer_core.config.groups import TextConfig
    from trainer_core.stages.session import Session
    from trainer_core.types import TextCondition

NAME = "cached_text_embeddings"


def _items(context: StageContext) -> dict[str, Item]:
    samples = context.session.manifest.samples
    if _left_to_training(context):
        # The base's held-out loss still needs what the base says.
        samples = tuple(sample for sample in samples if sample.split == "held_out")
    return text_items(context.session, context.settings.text, samples)


def _left_to_training(context: StageContext) -> bool:
    """Say whether training encodes its captions itself (`live_text.encodes_live`)."""
    return context.settings.text.cache == "never" or bool(context.settings.adapter.text_encoders)


def text_items(session: Session, text: TextConfig, samples: Sequence[Sample]) -> dict[str, Item]:
    """Return sample id -> what its caption's encoding depends on."""
    spec = session.family.spec
    common: dict[str, JSON] = {
        "encoders": session.weights(spec.text_components),
        "precision": session.precision("text", text.precision),
        "max_length": (text.max_length if spec.choosable_text_length else 0) or spec.text_length,
        "clip_skip": text.clip_skip if spec.clip_skip else 0,
        "encoder": f"{spec.identity} {spec.text_version}",
    }
    if spec.long_captions and text.clip_tokens > 75:
        common["clip_tokens"] = text.clip_tokens
    base = digest(common)
    if spec.control is not None and spec.control.in_text:
        return {sample.id: _seen_with_controls(sample, base, common) for sample in samples}
    return {
        sample.id: Item(entry_key(base, sample.caption), {"caption": sample.caption} | common) for sample in samples
    }


def _seen_with_controls(sample: Sample, base: str, common: Mapping[str, JSON]) -> Item:
    shown = digest([base, [control.picture for control in sample.controls]])
    parts = {"caption": sample.caption, "controls": control_parts(sample)} | dict(common)
    return Item(entry_key(shown, sample.caption), parts)


def _version(context: StageContext) -> str:
    if not _left_to_training(context):
        return digest([[name, item.key] for name, item in sorted(context.items.items())])
    # What training reads is a part of what this result means, whoever encodes it: another caption trains again.
    samples = context.session.manifest.samples
    items = text_items(context.session, context.settings.text, samples)
    rows = [[sample.id, items[sample.id].key, *sample.texts] for sample in samples]
    return digest(["encoded while training", sorted(rows)])


def _run(context: StageContext) -> Outcome:
    present = context.session.store.entries.present(item.key for item in context.items.values())
    captions: dict[str, Sample] = {}
    for sample in context.session.manifest.samples:
        item = context.items.get(sample.id)
        if item is not None and item.key not in present:
            captions.setdefault(item.key, sample)
    if captions:
        _encode(context, sorted(captions.items(), key=lambda pair: pair[0]))
    write_items(context)
    return items_outcome(context, _version(context), computed=len(captions))


def _encode(context: StageContext, captions: Sequence[tuple[str, Sample]]) -> None:
    import torch

    from trainer_core.hardware.placement import place, torch_dtype, torch_work

    session, text = context.session, context.settings.text
    precision = session.precision("text", text.precision)
    size = text.batch_size or session.profile.text_batch_size
    with (
        torch_work(session.profile, context.settings.hardware.threads),
        torch.inference_mode(),
        session.store.entries.writer("text") as writer,
    ):
        loaded = session.family.load_text_encoders(session.source, torch_dtype(precision))
        encoders = {
            name: place(part, session.profile) if isinstance(part, torch.nn.Module) else part
            for name, part in loaded.items()
        }
        for start in range(0, len(captions), size):
            batch = captions[start : start + size]
            shown = [sample.caption for _, sample in batch]
            conditions = session.family.encode_text(encoders, shown, text, _controls(context, batch))
            for (key, sample), condition in zip(batch, conditions, strict=True):
                tensors = _tensors(condition)
                _check_finite(sample.id, sample.caption, tensors, precision)
                writer.add(key, tensors, {"sample": sample.id})
            context.report(NAME, min(start + size, len(captions)), len(captions), "caption")
        del loaded, encoders


def _controls(context: StageContext, batch: Sequence[tuple[str, Sample]]) -> list[list[Image.Image]]:
    """Return the control pictures of each caption where the text encoder looks at them."""
    control = context.session.family.spec.control
    if control is None or not control.in_text:
        return []
    return [[read_picture(one.path, one.picture) for one in sample.controls] for _, sample in batch]


def _tensors(condition: TextCondition) -> dict[str, Tensor]:
    parts = {"embeds": condition.embeds, "pooled": condition.pooled, "mask": condition.mask}
    return {name: tensor.cpu() for name, tensor in parts.items() if tensor is not None}


def _check_finite(sample: str, caption: str, tensors: dict[str, Tensor], precision: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            message = f"{sample}: {name} of caption {caption[:80]!r} holds NaN or infinity in {precision}. "
            raise NonFiniteError(message + "Set text.precision to fp32 or bf16.", [sample])


def _inputs(context: StageContext) -> JSON:
    return {"items": _version(context)}


CACHED_TEXT_EMBEDDINGS = Stage(
    name=NAME,
    version=1,
    description="Captions encoded by the text encoders, one content-addressed entry a caption.",
    reads=("text", "adapter.text_encoders", "hardware.threads"),
    needs=("validated_dataset",),
    run=_run,
    inputs=_inputs,
    items=_items,
    cached=True,
    code=lambda spec: spec.text_version,
    data_version=_version,
    total=lambda context: len(context.items),
)
