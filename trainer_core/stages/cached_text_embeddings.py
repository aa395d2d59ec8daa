"""Captions encoded by the text encoders, one content-addressed entry a caption, however many pictures share it.

Where the family's text encoder looks at the control pictures, an entry is a caption with its control pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from trainer_core.config.groups import TextConfig
from trainer_core.config.reads import StageSettings
from trainer_core.data.captions.sample_captions import caption_key_parts, encodes_captions_live
from trainer_core.errors import NonFiniteError
from trainer_core.families.shared import loading
from trainer_core.hardware.out_of_memory import in_smaller_batches
from trainer_core.hardware.placement import move_to_device, torch_dtype, torch_work
from trainer_core.lazy import torch
from trainer_core.stages.caching.caption_entries import Text, texts_to_encode
from trainer_core.stages.caching.entries import control_parts, entry_key, items_outcome, write_items
from trainer_core.stages.group_parts import CaptionDropout, Threads
from trainer_core.stages.project.dataset_scan import TrainedTextEncoders
from trainer_core.stages.project.verified_pictures import read_picture
from trainer_core.stages.project.workspace import Workspace
from trainer_core.stages.stage import CacheItem, Outcome, Stage, StageContext
from trainer_core.store.keys import digest
from trainer_core.types import JSON, TextCondition

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

NAME = "cached_text_embeddings"


@dataclass(frozen=True)
class TextSettings(StageSettings):
    """The settings that decide what is encoded, and how."""

    text: TextConfig
    adapter: TrainedTextEncoders
    caption: CaptionDropout
    hardware: Threads


TextContext = StageContext[TextSettings]


def _items(context: TextContext) -> dict[str, CacheItem]:
    texts = texts_to_encode(context.workspace, context.settings.caption, _live(context))
    return text_items(context.workspace, context.settings.text, texts)


def _live(context: TextContext) -> bool:
    return encodes_captions_live(context.settings.text.cache, context.settings.adapter.text_encoders)


def text_items(workspace: Workspace, settings: TextConfig, texts: Iterable[Text]) -> dict[str, CacheItem]:
    """Return name of a text -> what its encoding depends on."""
    spec = workspace.family.spec
    common: dict[str, JSON] = {
        "encoders": workspace.weights(spec.text_components),
        "precision": workspace.precision("text", settings.precision),
        "max_length": spec.text.tokens(settings.max_length),
        "clip_skip": settings.clip_skip if spec.text.clip_skip else 0,
        "encoder": f"{spec.identity} {spec.text.version}",
    }
    if spec.text.long_captions and settings.clip_tokens > 75:
        common["clip_tokens"] = settings.clip_tokens
    base = digest(common)
    with_controls = spec.control is not None and spec.control.in_text
    items: dict[str, CacheItem] = {}
    for text in texts:
        # Of a sample's further texts there may be very many: what they share is named by its digest.
        encoding = common if text.name == text.sample.id else {"encoding": base}
        if with_controls:
            items[text.name] = _with_controls(text, base, encoding)
        else:
            items[text.name] = CacheItem(entry_key(base, text.text), {"caption": text.text, **encoding})
    return items


def _with_controls(text: Text, base: str, encoding: Mapping[str, JSON]) -> CacheItem:
    """Return the entry of a caption whose encoder looks at its control pictures."""
    shared = digest([base, [control.picture for control in text.sample.controls]])
    parts = {"caption": text.text, "controls": control_parts(text.sample)} | dict(encoding)
    return CacheItem(entry_key(shared, text.text), parts)


def _version(context: TextContext) -> str:
    rows: list[JSON] = [[name, item.key] for name, item in sorted(context.items.items())]
    samples = context.workspace.manifest.samples
    if _live(context):
        # What training reads is a part of what this result means, whoever encodes it: another caption trains again.
        captions = (Text(one.id, one, one.caption) for one in samples)
        read = text_items(context.workspace, context.settings.text, captions)
        rows += ["encoded while training", sorted([name, item.key] for name, item in read.items())]
    # Which text is how likely, and when, decides training as much as what the texts are.
    return digest(rows + [[one.id, drawn] for one in samples if (drawn := caption_key_parts(one))])


def _run(context: TextContext) -> Outcome:
    present = context.workspace.store.entries.present(item.key for item in context.items.values())
    captions: dict[str, Text] = {}
    for one in texts_to_encode(context.workspace, context.settings.caption, _live(context)):
        key = context.items[one.name].key
        if key not in present:
            captions.setdefault(key, one)
    if captions:
        # Captions of one length need no padding beside one another, and the longest show first what memory is needed.
        _encode(context, sorted(captions.items(), key=lambda pair: (-len(pair[1].text), pair[0])))
    write_items(context)
    return items_outcome(context, _version(context), computed=len(captions))


def _encode(context: TextContext, captions: Sequence[tuple[str, Text]]) -> None:
    from trainer_core.stages.caching import overlap

    workspace, text = context.workspace, context.settings.text
    precision = workspace.precision("text", text.precision)
    size = text.batch_size or workspace.profile.text_batch_size
    with (
        torch_work(workspace.profile, context.settings.hardware.threads),
        torch.inference_mode(),
        workspace.store.entries.writer("text") as writer,
        overlap.WriterThread() as thread,
    ):

        def write(key: str, one: Text, download: overlap.Download) -> None:
            tensors = download.wait()
            _check_finite(one.sample.id, one.text, tensors, precision)
            writer.add(key, tensors, {"sample": one.sample.id})

        loaded = loading.load_text_encoders(workspace.source, torch_dtype(precision))
        encoders = {
            name: move_to_device(part, workspace.profile) if isinstance(part, torch.nn.Module) else part
            for name, part in loaded.items()
        }
        fitting = size
        for start in range(0, len(captions), size):
            batch = captions[start : start + size]
            parts = _conditions(context, encoders, batch, fitting)
            fitting = fitting if len(parts) == 1 else min(fitting, max(map(len, parts)))
            conditions = [condition for part in parts for condition in part]
            for (key, one), condition in zip(batch, conditions, strict=True):
                thread.submit(partial(write, key, one, overlap.Download(_tensors(condition))))
            context.report(NAME, min(start + size, len(captions)), len(captions), "caption")
        del loaded, encoders


def _conditions(
    context: TextContext, encoders: Mapping[str, Any], batch: Sequence[tuple[str, Text]], size: int
) -> list[list[TextCondition]]:
    """Return the conditions of a batch of captions, in the parts in which they were encoded: one if it fits."""
    captions, pictures = [one.text for _, one in batch], _controls(context, batch)

    def encode(start: int, end: int) -> list[TextCondition]:
        text = context.settings.text
        return context.workspace.family.encode_text(encoders, captions[start:end], text, pictures[start:end])

    return in_smaller_batches(encode, len(batch), min(size, len(batch)))


def _controls(context: TextContext, batch: Sequence[tuple[str, Text]]) -> list[list[Image.Image]]:
    """Return the control pictures of each caption where the text encoder looks at them."""
    control = context.workspace.family.spec.control
    if control is None or not control.in_text:
        return []
    return [[read_picture(one.path, one.picture) for one in text.sample.controls] for _, text in batch]


def _tensors(condition: TextCondition) -> dict[str, Tensor]:
    parts = {"embeds": condition.embeds, "pooled": condition.pooled, "mask": condition.mask}
    return {name: tensor for name, tensor in parts.items() if tensor is not None}


def _check_finite(sample: str, caption: str, tensors: dict[str, Tensor], precision: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            message = f"{sample}: {name} of caption {caption[:80]!r} holds NaN or infinity in {precision}. "
            raise NonFiniteError(message + "Set text.precision to fp32 or bf16.", [sample])


def _inputs(context: TextContext) -> JSON:
    return {"items": _version(context)}


CACHED_TEXT_EMBEDDINGS = Stage(
    name=NAME,
    version=1,
    description="Captions encoded by the text encoders, one content-addressed entry a caption.",
    settings=TextSettings,
    less_memory="Lower text.batch_size, or use text.precision bf16.",
    needs=("validated_dataset",),
    run=_run,
    inputs=_inputs,
    items=_items,
    cached=True,
    code=lambda spec: spec.text.version,
    data_version=_version,
    total=lambda context: len(context.items),
)
