"""What a training run is known by: everything that decides its weights and its snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer_core.config.reads import settings_key
from trainer_core.stages.lora_settings import LoraContext, RunSettings, run_length
from trainer_core.stages.training.init_from import initial_key
from trainer_core.stages.training.save_schedule import SaveSchedule
from trainer_core.store.keys import digest
from trainer_core.types import JSON

_RUN = 2
"""Raise it when the same settings would train other weights."""


def run_inputs(context: LoraContext) -> dict[str, JSON]:
    """Return what decides the weights beside settings and upstream results."""
    workspace = context.workspace
    return {
        "weights": workspace.weights(workspace.family.spec.denoiser_components),
        "precision": workspace.precision("train", context.settings.train.precision),
        "family": workspace.family.spec.identity,
        **initial_key(context),
    }


def run_key(context: LoraContext) -> str:
    """Return the key of the training run: the part of the stage's recipe that its weights and snapshots depend on.

    How they are written to files is left out, so another `export.formats` exports again and trains nothing.
    """
    return run_key_over(context, upstream_versions(context))


def run_key_over(context: LoraContext, upstream: Mapping[str, str]) -> str:
    """Return the key of the training run over results of these data versions, which need not be computed yet."""
    length: dict[str, JSON] = {"steps": run_length(context).steps, **SaveSchedule.of(context).key}
    return digest(training_recipe(context, upstream) | {"length": length})


def upstream_versions(context: LoraContext) -> dict[str, str]:
    """Return stage -> data version of its result."""
    return {name: published.data_version for name, published in context.upstream.items()}


def training_recipe(context: LoraContext, upstream: Mapping[str, str]) -> dict[str, Any]:
    """Return everything that decides the weights of a step of the run, and when they are measured; not its length."""
    settings = settings_key(context.settings, RunSettings)
    # The chosen step changes no weights; the run's length and the kept steps are keyed apart, however asked for.
    for name in ("select", "steps", "epochs"):
        del settings["train"][name]
    del settings["sample"]
    return {"run": _RUN, "settings": settings, "inputs": run_inputs(context), "upstream": dict(upstream)}
