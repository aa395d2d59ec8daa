"""What training and measuring read of the caches: latents, text conditions, masks. Imports torch."""

from __future__ import annotations

from collections.abc import Container, Mapping

from trainer_core.data.captions.sample_captions import encodes_captions_live
from trainer_core.errors import ConfigError
from trainer_core.sampling.evaluate import HeldOut
from trainer_core.stages.caching.caption_entries import names_needed, text_choice
from trainer_core.stages.caching.entries import control_keys_of, keys_of, read_controls, read_latents, read_text
from trainer_core.stages.caching.view_entries import mask_keys_of, read_masks, view_geometries, view_ids
from trainer_core.stages.lora_settings import LoraContext
from trainer_core.stages.project.workspace import Workspace
from trainer_core.store import Published
from trainer_core.train.batches import CachedSamples
from trainer_core.types import Finding, Sample


def trains_live(context: LoraContext) -> bool:
    """Say whether training encodes its captions itself."""
    return encodes_captions_live(context.settings.text.cache, context.settings.adapter.text_encoders)


def trained_samples(context: LoraContext) -> list[Sample]:
    """Return the samples that are not held out.

    Raises:
        ConfigError: there is none.
    """
    samples = context.workspace.manifest.samples
    if train := [sample for sample in samples if sample.split == "train"]:
        return train
    message = f"all {len(samples)} samples are held out: none is left to train on."
    raise ConfigError([Finding("error", "datasets.held_out", message, "Lower held_out or add pictures.")])


def cached_samples(context: LoraContext) -> CachedSamples:
    """Read what the caches hold of the training samples, verified.

    Raises:
        DamagedEntries: some were damaged; they were dropped and must be encoded again.
    """
    workspace, train, live = context.workspace, trained_samples(context), trains_live(context)
    store = workspace.store
    geometries = view_geometries(train)
    names = names_needed(train, text_choice(workspace, train, context.settings.caption, live), live)
    latents = context.upstream["cached_latents"]
    return CachedSamples(
        read_latents(store, keys_of(latents, geometries)),
        read_text(store, keys_of(context.upstream["cached_text_embeddings"], names)),
        geometries,
        read_controls(store, control_keys_of(latents, train)),
        views=view_ids(train),
        masks=read_masks(store, mask_keys_of(latents, train)),
    )


def held_out_samples(workspace: Workspace, upstream: Mapping[str, Published], wanted: Container[str]) -> list[HeldOut]:
    """Read what the caches hold of some held-out samples, verified.

    Args:
        workspace: its samples and its store.
        upstream: the results of `cached_latents` and `cached_text_embeddings`.
        wanted: ids of the samples that are measured.

    Raises:
        DamagedEntries: some were damaged; they were dropped and must be encoded again.
    """
    samples = [sample for sample in workspace.manifest.samples if sample.split == "held_out" and sample.id in wanted]
    ids = [sample.id for sample in samples]
    latents = read_latents(workspace.store, keys_of(upstream["cached_latents"], ids))
    text = read_text(workspace.store, keys_of(upstream["cached_text_embeddings"], ids))
    controls = read_controls(workspace.store, control_keys_of(upstream["cached_latents"], samples))
    return [
        HeldOut(
            sample.id,
            latents[sample.id].float(),
            text[sample.id],
            sample.geometry,
            tuple(tensor.float() for tensor in controls.get(sample.id, ())),
        )
        for sample in samples
    ]
