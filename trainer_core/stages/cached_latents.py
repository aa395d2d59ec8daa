"""Pictures encoded by the VAE, one content-addressed entry a view of a picture.

Control pictures are entries of their own; so is the mask over a view, brought to the latents' size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from trainer_core.config.groups import LatentsConfig
from trainer_core.config.reads import GroupPart, StageSettings
from trainer_core.data.pictures.picture_info import DECODE_VERSION
from trainer_core.data.sample_identity import geometry_parts, training_parts
from trainer_core.errors import NonFiniteError
from trainer_core.families.shared import loading
from trainer_core.hardware.out_of_memory import in_smaller_batches
from trainer_core.hardware.placement import move_to_device, torch_device, torch_dtype, torch_work
from trainer_core.lazy import torch
from trainer_core.stages.caching.entries import control_id, entry_key, items_outcome, write_items
from trainer_core.stages.caching.view_entries import (
    Picture,
    controls_to_encode,
    extra_names,
    items_of,
    masks_to_cut,
    views_to_encode,
)
from trainer_core.stages.project.verified_pictures import read_mask, read_picture
from trainer_core.stages.stage import CacheItem, Outcome, Stage, StageContext
from trainer_core.store.keys import digest
from trainer_core.types import JSON

if TYPE_CHECKING:
    import numpy
    from torch import Tensor

NAME = "cached_latents"


@dataclass(frozen=True)
class EncodingThreads(GroupPart):
    """CPU threads, of the group `hardware`."""

    threads: int
    decode_threads: int


@dataclass(frozen=True)
class LatentsSettings(StageSettings):
    """The settings of encoding; which pictures are encoded is in the data version of `validated_dataset`."""

    latents: LatentsConfig
    hardware: EncodingThreads


LatentsContext = StageContext[LatentsSettings]


STORED = {"fp32": "fp32", "bf16": "fp16", "fp16": "fp16"}
"""Precision of encoding -> of storage: latents have a small range, where fp16 is eight times finer than bf16."""


def _items(context: LatentsContext) -> dict[str, CacheItem]:
    workspace, spec = context.workspace, context.workspace.family.spec
    common = {
        "vae": workspace.weights(spec.vae_components),
        "precision": workspace.precision("vae", context.settings.latents.precision),
        "encoder": f"{spec.name} {spec.latents.version}",
        "decode": DECODE_VERSION,
        **({"tiling": True} if context.settings.latents.tiling else {}),
    }
    base = digest(common)
    items: dict[str, CacheItem] = {}
    for sample in workspace.manifest.samples:
        if sample.views or sample.controls or sample.mask is not None:
            items.update(items_of(sample, spec, base, common))
            continue
        shape = geometry_parts(sample.geometry)
        items[sample.id] = CacheItem(
            entry_key(base, sample.picture, str(shape)), {"picture": sample.picture, "geometry": shape} | common
        )
    return items


def _version(context: LatentsContext) -> str:
    rows: list[JSON] = []
    for sample in sorted(context.workspace.manifest.samples, key=lambda sample: sample.id):
        key = context.items[sample.id].key
        row: list[JSON] = [sample.id, key, sample.repeats, sample.split, sample.geometry.original]
        if sample.controls:
            row.append([context.items[control_id(sample.id, number)].key for number in range(len(sample.controls))])
        if extra := training_parts(sample) | {name: context.items[name].key for name in extra_names(sample)}:
            row.append(extra)
        rows.append(row)
    return digest(rows)


def _run(context: LatentsContext) -> Outcome:
    entries = context.workspace.store.entries
    present = entries.present(item.key for item in context.items.values())
    samples, spec = context.workspace.manifest.samples, context.workspace.family.spec
    pictures = (one for sample in samples for one in (*views_to_encode(sample), *controls_to_encode(sample, spec)))
    wanted = _one_picture_a_key(context, pictures, present)
    if wanted:
        _encode(context, wanted)
    masks = _one_picture_a_key(context, (mask for sample in samples for mask in masks_to_cut(sample)), present)
    if masks:
        _write_masks(context, masks)
    write_items(context)
    return items_outcome(context, _version(context), computed=len(wanted) + len(masks))


def _one_picture_a_key(context: LatentsContext, pictures: Iterable[Picture], present: set[str]) -> list[Picture]:
    """Return those whose keys are missing, each once however many samples share it, ordered by size."""
    first: dict[str, Picture] = {}
    for picture in pictures:
        key = context.items[picture.name].key
        if key not in present:
            first.setdefault(key, picture)
    return sorted(first.values(), key=lambda picture: (picture.size, picture.name))


def _encode(context: LatentsContext, pictures: Sequence[Picture]) -> None:
    from trainer_core.stages.caching import overlap

    workspace = context.workspace
    precision = workspace.precision("vae", context.settings.latents.precision)
    size = context.settings.latents.batch_size or workspace.profile.encode_batch_size
    dtype, stored = torch_dtype(precision), torch_dtype(STORED[precision])  # type: ignore[arg-type]
    done, fitting = 0, size
    with (
        torch_work(workspace.profile, context.settings.hardware.threads),
        torch.inference_mode(),
        workspace.store.entries.writer("latents") as writer,
        overlap.WriterThread() as thread,
    ):

        def write(batch: Sequence[Picture], download: overlap.Download) -> None:
            for picture, latent in zip(batch, download.wait()["latents"], strict=True):
                _check_finite(picture, latent, precision)
                item = context.items[picture.name]
                writer.add(item.key, {"latents": latent.to(stored)}, {"sample": picture.name})

        vae = move_to_device(loading.load_vae(workspace.source, dtype), workspace.profile)
        _use_tiles(vae, context.settings.latents.tiling)
        for batch, pixels in _decoded(context, list(_batches(pictures, size)), torch_device(workspace.profile)):
            parts = _latents(context, vae, pixels, fitting, dtype)
            # where memory ran out, later batches are no larger than what fitted
            fitting = fitting if len(parts) == 1 else min(fitting, max(map(len, parts)))
            thread.submit(partial(write, batch, overlap.Download({"latents": torch.cat(parts)})))
            done += len(batch)
            context.report(NAME, done, len(pictures), "picture")
        del vae


def _use_tiles(vae: Any, tiling: bool) -> None:
    """Let the VAE encode a picture tile by tile, in less memory; a no-op where it cannot."""
    if tiling and hasattr(vae, "enable_tiling"):
        vae.enable_tiling()


def _latents(context: LatentsContext, vae: Any, pixels: Tensor, size: int, dtype: torch.dtype) -> list[Tensor]:
    """Return the latents of a batch, float32 on the device, in the parts in which they were encoded: one if it fits."""
    from trainer_core.stages.caching import overlap

    family, device = context.workspace.family, torch_device(context.workspace.profile)

    def encode(start: int, end: int) -> Tensor:
        return family.encode_latents(vae, overlap.normalised(pixels[start:end], device, dtype)).to(torch.float32)

    return in_smaller_batches(encode, len(pixels), min(size, len(pixels)))


def _write_masks(context: LatentsContext, masks: Sequence[Picture]) -> None:
    """Bring masks to the latents' size; fp16 is exact to 1/4096 in [0, 1]."""
    from trainer_core.data.pictures.mask_pixels import to_latent_mask

    factor = context.workspace.family.spec.latents.factor
    threads = context.settings.hardware.decode_threads or context.workspace.profile.decode_threads

    def load(mask: Picture) -> numpy.ndarray[Any, Any]:
        return to_latent_mask(read_mask(mask.path, mask.sha256, mask.alpha), mask.view, factor)

    with (
        ThreadPoolExecutor(threads, thread_name_prefix="mask") as pool,
        context.workspace.store.entries.writer("latents") as writer,
    ):
        for mask, values in zip(masks, pool.map(load, masks), strict=True):
            tensor = torch.from_numpy(values)[None].to(torch.float16)
            writer.add(context.items[mask.name].key, {"mask": tensor}, {"sample": mask.name})
    context.report(NAME, len(masks), len(masks), "mask")


def _batches(pictures: Sequence[Picture], size: int) -> Iterator[list[Picture]]:
    batch: list[Picture] = []
    for picture in pictures:
        if batch and (len(batch) == size or picture.size != batch[0].size):
            yield batch
            batch = []
        batch.append(picture)
    if batch:
        yield batch


def _decoded(
    context: LatentsContext, batches: Sequence[list[Picture]], device: torch.device
) -> Iterator[tuple[list[Picture], Tensor]]:
    """Yield batches with their pixels, uint8 [B, H, W, 3], decoded, stacked and pinned by threads."""
    import numpy

    from trainer_core.data.pictures.decode import to_view
    from trainer_core.stages.caching import overlap

    threads = context.settings.hardware.decode_threads or context.workspace.profile.decode_threads
    ahead = 2 * threads

    def load(batch: list[Picture]) -> Tensor:
        pixels = [to_view(read_picture(picture.path, picture.sha256), picture.view) for picture in batch]
        return overlap.pinned(torch.from_numpy(numpy.stack(pixels)), device)

    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        pending = [pool.submit(load, batch) for batch in batches[:ahead]]
        for position, batch in enumerate(batches):
            pixels = pending[position].result()
            pending[position] = None  # type: ignore[call-overload]  # lets the pixels go
            if position + ahead < len(batches):
                pending.append(pool.submit(load, batches[position + ahead]))
            yield batch, pixels


def _check_finite(picture: Picture, latent: Tensor, precision: str) -> None:
    if not latent.isfinite().all():
        message = f"{picture.path}: the VAE gave NaN or infinity in {precision}. Set latents.precision to fp32."
        raise NonFiniteError(message, [picture.name])


def _inputs(context: LatentsContext) -> JSON:
    return {"items": _version(context)}


CACHED_LATENTS = Stage(
    name=NAME,
    version=1,
    description="Pictures encoded by the VAE, one content-addressed entry a picture.",
    settings=LatentsSettings,
    less_memory="Lower latents.batch_size or bucket.resolution.",
    needs=("validated_dataset",),
    run=_run,
    inputs=_inputs,
    items=_items,
    cached=True,
    code=lambda spec: [spec.latents.version, DECODE_VERSION],
    data_version=_version,
    total=lambda context: len(context.items),
)
