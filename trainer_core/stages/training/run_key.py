"""What a training run is known by: everything that decides its weights and its snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from trainer_core.config.reads import settings_key
from trainer_core.data.captions.sample_captions import encodes_captions_live
from trainer_core.data.sample_identity import version_row
from trainer_core.stages.caching.entries import read_items
from trainer_core.stages.lora_settings import LoraContext, RunSettings, evaluation_plan, run_length
from trainer_core.stages.project.quantised_base import storage_key, storage_of
from trainer_core.stages.training.init_from import initial_key
from trainer_core.stages.training.save_schedule import SaveSchedule
from trainer_core.store.keys import digest
from trainer_core.types import JSON

Entries = Mapping[str, Mapping[str, str]]
"""Stage -> name of an entry -> its key."""
_RUN = 2
"""Raise it when the same settings would train other weights."""


def run_inputs(context: LoraContext) -> dict[str, JSON]:
    """Return what decides the weights beside settings and upstream results."""
    workspace = context.workspace
    return {
        "weights": workspace.weights(workspace.family.spec.denoiser_components),
        "precision": workspace.precision("train", context.settings.train.precision),
        "family": workspace.family.spec.identity,
        **storage_key(storage_of(context.workspace, context.settings.memory)),
        **initial_key(context),
        **_rounding(context),
    }


def _rounding(context: LoraContext) -> dict[str, JSON]:
    """Return that float32 products are rounded to TF32, where a run in float32 on a GPU asks for it."""
    workspace, settings = context.workspace, context.settings
    exact = workspace.precision("train", settings.train.precision) == "fp32" and workspace.profile.device == "cuda"
    return {"tf32": True} if exact and settings.hardware.tf32 == "on" else {}


def run_key(context: LoraContext) -> str:
    """Return the key of the training run: the part of the stage's recipe that its weights and snapshots depend on.

    How they are written to files is left out, so another `export.formats` exports again and trains nothing.
    """
    return run_key_over(context, upstream_versions(context))


def run_key_over(context: LoraContext, upstream: Mapping[str, str]) -> str:
    """Return the key of the training run over results of these data versions, which need not be computed yet."""
    length: dict[str, JSON] = {"steps": run_length(context).steps, **SaveSchedule.of(context).key}
    return digest(training_recipe(context, upstream) | {"length": length})


@dataclass(frozen=True)
class SplitInputs:
    """Digests of what training reads of the samples, and of what only measuring reads."""

    training: str
    held_out: str


def split_inputs(context: LoraContext, upstream: Mapping[str, str], entries: Entries) -> SplitInputs:
    """Part the upstream results into what decides the weights and what is only measured.

    Args:
        context: the stage's.
        upstream: stage -> data version of its result.
        entries: stage -> name of an entry -> its key.
    """
    settings, samples = context.settings, context.workspace.manifest.samples
    held = {sample.id for sample in samples if sample.split == "held_out"}
    trained = {sample.id for sample in samples} - held
    rows = {sample.id: version_row(sample) for sample in samples}
    parts: dict[bool, list[JSON]] = {False: [], True: []}
    for stage, keys in sorted(entries.items()):
        for name, key in sorted(keys.items()):
            parts[_sample_of(name, trained, held) in held].append([stage, name, key])
    if encodes_captions_live(settings.text.cache, settings.adapter.text_encoders):
        # Captions that training encodes itself have no entries, so all that decides them counts.
        parts[False].append(dict(upstream))
    if levels := evaluation_plan(context).key.get("levels"):
        parts[True].append(levels)
    return SplitInputs(
        digest([[rows[name] for name in sorted(trained)], parts[False]]),
        digest([[rows[name] for name in sorted(held)], parts[True]]),
    )


def _sample_of(name: str, trained: Set[str], held: Set[str]) -> str:
    """Return the sample that an entry belongs to: `cats/1.png [view 2]` is of `cats/1.png`."""
    while name not in trained and name not in held and " [" in name:
        name = name.rpartition(" [")[0]
    return name


def upstream_versions(context: LoraContext) -> dict[str, str]:
    """Return stage -> data version of its result."""
    return {name: published.data_version for name, published in context.upstream.items()}


def upstream_entries(context: LoraContext) -> Entries:
    """Return the entries of the results upstream."""
    return {
        stage: {name: str(item["key"]) for name, item in read_items(published).items()}
        for stage, published in context.upstream.items()
    }


def training_recipe(context: LoraContext, upstream: Mapping[str, str]) -> dict[str, Any]:
    """Return everything that decides the weights of a step of the run, and when they are measured; not its length."""
    settings = settings_key(context.settings, RunSettings)
    # The chosen step changes no weights; the run's length and the kept steps are keyed apart, however asked for.
    for name in ("select", "steps", "epochs"):
        del settings["train"][name]
    del settings["sample"]
    recipe = {"run": _RUN, "settings": settings, "inputs": run_inputs(context), "upstream": dict(upstream)}
    measured = evaluation_plan(context).key
    return recipe | ({"evaluation": measured} if measured else {})
