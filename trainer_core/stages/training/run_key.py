"""What a training run is known by: everything that decides its weights and its snapshots."""

from __future__ import annotations

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
    upstream = {name: published.data_version for name, published in context.upstream.items()}
    settings = settings_key(context.settings, RunSettings)
    # The chosen step changes no weights; the run's length and the kept steps are below, however they were asked for.
    for name in ("select", "steps", "epochs"):
        del settings["train"][name]
    del settings["sample"]
    length: dict[str, JSON] = {"steps": run_length(context).steps, **SaveSchedule.of(context).key}
    recipe = {"run": _RUN, "settings": settings, "inputs": run_inputs(context), "upstream": upstream}
    return digest(recipe | {"length": length})
