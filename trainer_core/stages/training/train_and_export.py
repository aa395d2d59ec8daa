"""The work of `lora_checkpoint`: train, or go on from where a run stopped, then export and report. Imports torch."""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import median

from trainer_core.export.module_names import Modules
from trainer_core.export.snapshots import read_snapshot
from trainer_core.hardware.kernel_scope import training_work
from trainer_core.hardware.placement import torch_dtype
from trainer_core.stages.lora_settings import LoraContext, run_length
from trainer_core.stages.project.quantised_base import object_name, storage_of
from trainer_core.stages.publishing.lora_files import base_modules, export_all, export_snapshot, lineage
from trainer_core.stages.results import TrainingReport
from trainer_core.stages.stage import Outcome
from trainer_core.stages.training.continuation import continuation_of, selection_of
from trainer_core.stages.training.intermediate_saves import collect_saves
from trainer_core.stages.training.launch import train_in_processes
from trainer_core.stages.training.run_key import run_key, upstream_entries, upstream_versions
from trainer_core.stages.training.save_schedule import SNAPSHOTS, SaveSchedule, snapshot_path
from trainer_core.stages.training.training_data import cached_samples
from trainer_core.stages.training.training_run import choose_step, train_here
from trainer_core.train.loop import TrainOutcome
from trainer_core.train.memory.ladder import read_rungs
from trainer_core.train.observe.metrics import read_metrics
from trainer_core.train.observe.plots import write_loss_curve
from trainer_core.train.trainer import STAGE


def train_and_export(context: LoraContext) -> Outcome:
    """Train, choose a step, and write its files, the run's curve and its report into the result."""
    workdir = context.workspace.store.root / "runs" / run_key(context)
    workdir.mkdir(parents=True, exist_ok=True)
    outcome = _train(context, workdir)
    step, adapter = choose_step(context, workdir, outcome)
    modules = base_modules(context)
    exports = export_all(context, modules, adapter, step)
    final_loss = _collect_curve(context, workdir, step)
    _collect_snapshots(context, workdir, modules)
    held_out, total = selection_of(context, workdir).losses(), run_length(context).steps
    saves = collect_saves(context, workdir, SaveSchedule.of(context), held_out, modules)
    report = TrainingReport(
        run=workdir.name,
        steps=total,
        selected_step=step,
        held_out_losses=dict(sorted(held_out.items())),
        steps_per_second=outcome.steps_per_second or None,
        final_loss=final_loss,
        peak_memory_mib=round(outcome.peak.allocated, 1),
        weights_sha256=exports.weights_sha256,
        lineage=lineage(context, step),
        rendered=exports.rendered,
        proof=tuple(proof.as_dict() for proof in exports.proofs),
        rank=context.settings.adapter.rank,
        alpha=context.settings.adapter.alpha,
        trained_samples=sum(sample.split == "train" for sample in context.workspace.manifest.samples),
        saved=None if saves is None else saves.steps,
        outputs={} if saves is None else saves.outputs,
        uses=_used_objects(context),
        rungs=tuple(rung.as_dict() for rung in read_rungs(workdir / "metrics.jsonl")),
    )
    reused = total - outcome.steps_run
    return Outcome(exports.weights_sha256, report.to_json(), items_computed=outcome.steps_run, items_reused=reused)


def _used_objects(context: LoraContext) -> tuple[str, ...]:
    """Return the kept copy of the base that the run read, so that further runs find it."""
    workspace, settings = context.workspace, context.settings
    dtype = torch_dtype(workspace.precision("train", settings.train.precision))
    name = object_name(workspace, dtype, storage_of(workspace, settings.memory))
    return (name,) if name else ()


def _train(context: LoraContext, workdir: Path) -> TrainOutcome:
    """Train in one process or several. Recipes that differ in how the file is written share a run: one trains it."""
    with (
        training_work(context.workspace.profile, context.settings.hardware),
        context.workspace.store.lock(f"run-{workdir.name}"),
    ):
        continuation = continuation_of(context, upstream_versions(context), upstream_entries(context), workdir)
        continuation.adopt()
        continuation.record.write(context.workspace.store.root, workdir)
        try:
            if context.settings.hardware.num_processes == 1:
                return train_here(context, workdir)
            # Damaged entries are detected, and dropped, before several processes meet them.
            cached_samples(context)
            return train_in_processes(context, workdir)
        finally:
            _remember_speed(context, workdir)


def _remember_speed(context: LoraContext, workdir: Path) -> None:
    """Let `plan` estimate the time of steps, also after a run that was stopped, or that had none left to do."""
    rates = [line.it_per_s for line in read_metrics(workdir / "metrics.jsonl") if line.it_per_s > 0]
    if rates:
        context.workspace.store.index.remember("seconds_per_item", {STAGE: 1 / median(rates)})


def _collect_curve(context: LoraContext, workdir: Path, selected: int) -> float | None:
    """Put the run's metrics and its curve into the result; return the last loss."""
    metrics = read_metrics(workdir / "metrics.jsonl")
    shutil.copyfile(workdir / "metrics.jsonl", context.staging / "training.jsonl")
    held_out = selection_of(context, workdir).losses()
    write_loss_curve(metrics, held_out, selected, context.staging / "loss_curve.png")
    return metrics[-1].loss if metrics else None


def _collect_snapshots(context: LoraContext, workdir: Path, modules: Modules) -> None:
    """Export the steps that pictures are rendered of."""
    for step in sorted(SaveSchedule.of(context).sampled):
        snapshot = snapshot_path(workdir, step)
        if snapshot.exists() and (adapter := read_snapshot(snapshot)) is not None:
            target = context.staging / SNAPSHOTS / snapshot.name
            target.parent.mkdir(exist_ok=True)
            export_snapshot(context, modules, adapter, target, step)
