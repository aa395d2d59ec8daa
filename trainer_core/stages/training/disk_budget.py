"""Disk budget: estimate a run's size, delete expired runs, refuse a run that cannot fit."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from trainer_core.errors import ConfigError, StoreError
from trainer_core.stages.lora_settings import LoraContext
from trainer_core.store.runs import RunFolder, claim, free_space, remove_idle, runs_of
from trainer_core.types import Finding

log = logging.getLogger(__name__)

GIB = 2**30


@dataclass(frozen=True)
class Footprint:
    """Bytes that a run will take at most."""

    adapter: int
    """Weights of the adapter in float32."""
    optimizer: int
    states: int
    """Resumable checkpoints that lie there at once, the one that is being written included."""
    snapshots: int
    """Weights that are kept for files, for samples and as the best so far."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.states * (self.adapter + self.optimizer) + self.snapshots * self.adapter

    def __str__(self) -> str:
        """Tell the sum and its parts."""
        states = f"{self.states} checkpoints of {_gib(self.adapter + self.optimizer)}"
        return f"{_gib(self.total)} ({states}, {self.snapshots} sets of weights of {_gib(self.adapter)})"


def enforce_disk_budget(context: LoraContext, workdir: Path, needed: Footprint) -> None:
    """Remove runs that are too old or too much, and refuse a run that cannot fit.

    Raises:
        ConfigError: the run does not fit into `save.disk_budget_gib`.
        StoreError: it does not fit onto the disk.
    """
    save, store, project = context.settings.save, context.workspace.store, context.workspace.name
    claim(store.root, workdir.name, project)
    if save.max_age_days:
        _tell(remove_idle(store, project, save.max_age_days, (workdir.name,)), "not used for so long")
    if save.disk_budget_gib:
        most = int(save.disk_budget_gib * GIB)
        removed, missing = free_space(store, project, most, workdir.name, needed.total)
        _tell(removed, "to stay within save.disk_budget_gib")
        if missing:
            raise ConfigError([_over_budget(context, workdir, needed, missing)])
    there = next((run.bytes for run in runs_of(store.root, project) if run.path == workdir), 0)
    free = shutil.disk_usage(store.root).free
    if needed.total - there > free:
        message = f"{store.root}: the run needs {needed}, but only {_gib(free)} are free on this disk. "
        raise StoreError(message + "Free some space (`lora-assets gc`), or lower train.keep_last or save.keep_last.")


def _over_budget(context: LoraContext, workdir: Path, needed: Footprint, missing: int) -> Finding:
    others = sum(
        run.bytes
        for run in runs_of(context.workspace.store.root, context.workspace.name)
        if run.path.name != workdir.name
    )
    message = (
        f"is {context.settings.save.disk_budget_gib:g}, but this run needs {needed}, and other runs of the project "
        f"take {_gib(others)}: {_gib(missing)} too much, and not enough of them may go."
    )
    fix = "Raise it, or lower train.keep_last, save.keep_last or adapter.rank, or save less often."
    return Finding("error", "save.disk_budget_gib", message, fix)


def _tell(removed: list[RunFolder], why: str) -> None:
    for run in removed:
        log.info("removed the checkpoints of run %s (%s), %s", run.path.name[:12], _gib(run.bytes), why)


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB / 100 else f"{count / 2**20:.2f} MiB"
