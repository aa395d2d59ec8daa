"""Captions encoded by the text encoders, one content-addressed entry a caption, however many pictures share it.

Where the family's text encoder looks at the control pictures, an entry is a caption with its control pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from trainer_core.data.captions.sample_captions import drawn_row, encoded_live
from trainer_core.errors import NonFiniteError
from trainer_core.families.shared import loading
from trainer_core.stages.caching.caption_entries import Text, texts_to_encode
from trainer_core.stages.caching.entries import control_parts, entry_key, items_outcome, write_items
from trainer_core.stages.project.verified_pictures import read_picture
from trainer_core.stages.stage import Item, Outcome, Stage, StageContext
from trainer_core.store.keys import digest
from trainer_core.types import JSON

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from trainer_core.config.groups import TextConfig
    from trainer_core.stages.project.session import Session
    from trainer_core.types import TextCondition

NAME = "cached_text_embeddings"


def _items(context: StageContext) -> dict[str, Item]:
    settings = context.settings
    return text_items(context.session, settings.text, texts_to_encode(context.session, settings.caption))


def text_items(session: Session, text: TextConfig, texts: Iterable[Text]) -> dict[str, Item]:
    """Return name of a text -> what its encoding depends on."""
    spec = session.family.spec
    common: dict[str, JSON] = {
        "encoders": session.weights(spec.text_components),
        "precision": session.precision("text", text.precision),
        "max_length": spec.text.tokens(text.max_length),
        "clip_skip": text.clip_skip if spec.text.clip_skip else 0,
        "encoder": f"{spec.identity} {spec.text.version}",
    }
    if spec.text.long_captions and text.clip_tokens > 75:
        common["clip_tokens"] = text.clip_tokens
    base = digest(common)
    seen = spec.control is not None and spec.control.in_text
    items: dict[str, Item] = {}
    for one in texts:
        # Of a sample's further texts there may be very many: what they share is named by its digest.
        told = common if one.name == one.sample.id else {"encoding": base}
        if seen:
            items[one.name] = _seen_with_controls(one, base, told)
        else:
            items[one.name] = Item(entry_key(base, one.text), {"caption": one.text, **told})
    return items


def _seen_with_controls(one: Text, base: str, told: Mapping[str, JSON]) -> Item:
    shown = digest([base, [control.picture for control in one.sample.controls]])
    parts = {"caption": one.text, "controls": control_parts(one.sample)} | dict(told)
    return Item(entry_key(shown, one.text), parts)


def _version(context: StageContext) -> str:
    rows: list[JSON] = [[name, item.key] for name, item in sorted(context.items.items())]
    samples = context.session.manifest.samples
    if encoded_live(context.session.project):
        # What training reads is a part of what this result means, whoever encodes it: another caption trains again.
        captions = (Text(one.id, one, one.caption) for one in samples)
        read = text_items(context.session, context.settings.text, captions)
        rows += ["encoded while training", sorted([name, item.key] for name, item in read.items())]
    # Which text is how likely, and when, decides training as much as what the texts are.
    return digest(rows + [[one.id, drawn] for one in samples if (drawn := drawn_row(one))])


def _run(context: StageContext) -> Outcome:
    present = context.session.store.entries.present(item.key for item in context.items.values())
    captions: dict[str, Text] = {}
    for one in texts_to_encode(context.session, context.settings.caption):
        key = context.items[one.name].key
        if key not in present:
            captions.setdefault(key, one)
    if captions:
        _encode(context, sorted(captions.items(), key=lambda pair: pair[0]))
    write_items(context)
    return items_outcome(context, _version(context), computed=len(captions))


def _encode(context: StageContext, captions: Sequence[tuple[str, Text]]) -> None:
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
        loaded = loading.load_text_encoders(session.source, torch_dtype(precision))
        encoders = {
            name: place(part, session.profile) if isinstance(part, torch.nn.Module) else part
            for name, part in loaded.items()
        }
        for start in range(0, len(captions), size):
            batch = captions[start : start + size]
            shown = [one.text for _, one in batch]
            conditions = session.family.encode_text(encoders, shown, text, _controls(context, batch))
            for (key, one), condition in zip(batch, conditions, strict=True):
                tensors = _tensors(condition)
                _check_finite(one.sample.id, one.text, tensors, precision)
                writer.add(key, tensors, {"sample": one.sample.id})
            context.report(NAME, min(start + size, len(captions)), len(captions), "caption")
        del loaded, encoders


def _controls(context: StageContext, batch: Sequence[tuple[str, Text]]) -> list[list[Image.Image]]:
    """Return the control pictures of each caption where the text encoder looks at them."""
    control = context.session.family.spec.control
    if control is None or not control.in_text:
        return []
    return [[read_picture(one.path, one.picture) for one in text.sample.controls] for _, text in batch]


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
    reads=(
        *("text", "adapter.text_encoders", "caption.dropout", "caption.dropout_every_n_epochs"),
        "hardware.threads",
    ),
    needs=("validated_dataset",),
    run=_run,
    inputs=_inputs,
    items=_items,
    cached=True,
    code=lambda spec: spec.text.version,
    data_version=_version,
    total=lambda context: len(context.items),
)
