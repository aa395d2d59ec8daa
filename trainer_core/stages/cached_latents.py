"""Pictures encoded by the VAE, one content-addressed entry a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from trainer_core.data.decode import DECODE_VERSION, PictureProblem, load_rgb, to_bucket
from trainer_core.errors import DatasetError, NonFiniteError
from trainer_core.stages.base import Item, Outcome, Stage, StageContext
from trainer_core.stages.entries import entry_key, items_outcome, shape_of, write_items
from trainer_core.store.keys import digest
from trainer_core.types import JSON, Bucket, Sample

if TYPE_CHECKING:
    import numpy
    from torch import Tensor

NAME = "cached_latents"
STORED = {"fp32": "fp32", "bf16": "fp16", "fp16": "fp16"}
"""Precision of encoding -> of storage: latents have a small range, where fp16 is eight times finer than bf16."""


def _items(context: StageContext) -> dict[str, Item]:
    session, spec = context.session, context.session.family.spec
    common = {
        "vae": session.weights(spec.vae_components),
        "precision": session.precision("vae", context.settings.latents.precision),
        "encoder": f"{spec.name} {spec.latents_version}",
        "decode": DECODE_VERSION,
    }
    base = digest(common)
    items: dict[str, Item] = {}
    for sample in session.manifest.samples:
        shape = shape_of(sample)
        items[sample.id] = Item(
            entry_key(base, sample.picture, str(shape)), {"picture": sample.picture, "geometry": shape} | common
        )
    return items


def _version(context: StageContext) -> str:
    samples = {sample.id: sample for sample in context.session.manifest.samples}
    return digest(
        [
            [name, item.key, samples[name].repeats, samples[name].split, samples[name].geometry.original]
            for name, item in sorted(context.items.items())
        ]
    )


def _run(context: StageContext) -> Outcome:
    entries = context.session.store.entries
    present = entries.present(item.key for item in context.items.values())
    wanted = _one_sample_a_key(context, present)
    if wanted:
        _encode(context, wanted)
    write_items(context)
    return items_outcome(context, _version(context), computed=len(wanted))


def _one_sample_a_key(context: StageContext, present: set[str]) -> list[Sample]:
    """Samples to encode: the missing keys, each once however many samples share it, ordered by bucket."""
    first: dict[str, Sample] = {}
    for sample in context.session.manifest.samples:
        key = context.items[sample.id].key
        if key not in present:
            first.setdefault(key, sample)
    return sorted(first.values(), key=lambda sample: (sample.bucket, sample.id))


def _encode(context: StageContext, samples: Sequence[Sample]) -> None:
    import torch

    from trainer_core.hardware.placement import place, torch_device, torch_dtype, torch_work

    session = context.session
    precision = session.precision("vae", context.settings.latents.precision)
    size = context.settings.latents.batch_size or session.profile.encode_batch_size
    device, dtype, stored = torch_device(session.profile), torch_dtype(precision), torch_dtype(STORED[precision])  # type: ignore[arg-type]
    done = 0
    with (
        torch_work(session.profile, context.settings.hardware.threads),
        torch.inference_mode(),
        session.store.entries.writer("latents") as writer,
    ):
        vae = place(session.family.load_vae(session.source, dtype), session.profile)
        for batch, pixels in _decoded(context, list(_batches(samples, size))):
            latents = session.family.encode_latents(vae, pixels.to(device, dtype)).to("cpu", torch.float32)
            for sample, latent in zip(batch, latents, strict=True):
                _check_finite(sample, latent, precision)
                item = context.items[sample.id]
                writer.add(item.key, {"latents": latent.to(stored)}, {"sample": sample.id})
            done += len(batch)
            context.report(NAME, done, len(samples), "picture")
        del vae


def _batches(samples: Sequence[Sample], size: int) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    bucket: Bucket | None = None
    for sample in samples:
        if batch and (len(batch) == size or sample.bucket != bucket):
            yield batch
            batch = []
        batch.append(sample)
        bucket = sample.bucket
    if batch:
        yield batch


def _decoded(context: StageContext, batches: Sequence[list[Sample]]) -> Iterator[tuple[list[Sample], Tensor]]:
    """Yield batches with their pixels [B, 3, H, W] in [-1, 1], decoded by threads while the VAE works."""
    import numpy
    import torch

    threads = context.settings.hardware.decode_threads or context.session.profile.decode_threads
    ahead = 2 * threads

    def load(batch: list[Sample]) -> list[numpy.ndarray[Any, Any]]:
        return [_read(sample) for sample in batch]

    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        pending = [pool.submit(load, batch) for batch in batches[:ahead]]
        for position, batch in enumerate(batches):
            pictures = pending[position].result()
            pending[position] = None  # type: ignore[call-overload]  # lets the pixels go
            if position + ahead < len(batches):
                pending.append(pool.submit(load, batches[position + ahead]))
            pixels = torch.from_numpy(numpy.stack(pictures)).permute(0, 3, 1, 2)
            yield batch, pixels.to(torch.float32).div_(127.5).sub_(1.0)


def _read(sample: Sample) -> numpy.ndarray[Any, Any]:
    """Decode the very bytes whose hash is in the key.

    Raises:
        DatasetError: the picture changed after it was looked at.
    """
    data = sample.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sample.picture:
        raise DatasetError(f"{sample.path}: changed while it was being encoded. Run again when it is complete.")
    try:
        return to_bucket(load_rgb(data), sample.geometry)
    except PictureProblem as problem:
        raise DatasetError(f"{sample.path}: {problem}") from problem


def _check_finite(sample: Sample, latent: Tensor, precision: str) -> None:
    if not latent.isfinite().all():
        message = f"{sample.path}: the VAE gave NaN or infinity in {precision}. Set latents.precision to fp32."
        raise NonFiniteError(message, [sample.id])


def _inputs(context: StageContext) -> JSON:
    return {"items": _version(context)}


CACHED_LATENTS = Stage(
    name=NAME,
    version=1,
    description="Pictures encoded by the VAE, one content-addressed entry a picture.",
    reads=("latents", "hardware.threads", "hardware.decode_threads"),
    needs=("validated_dataset",),
    run=_run,
    inputs=_inputs,
    items=_items,
    cached=True,
    code=lambda spec: [spec.latents_version, DECODE_VERSION],
    data_version=_version,
    total=lambda context: len(context.items),
)
