"""LoRA files published while a run goes: each in every format of `export.formats`, proven like the finished one.

    runs/KEY/snapshots/step-00000500.safetensors     the weights of a step, float32
    outputs/NAME/NAME-step00000500.safetensors       published when the step is done, and again with the result

What the result holds is made from the snapshots, so it is the same whether or not the run was interrupted.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.errors import LoraAssetsError
from trainer_core.export.snapshots import read_snapshot, write_snapshot
from trainer_core.stages.lora_settings import LoraContext, run_length
from trainer_core.stages.publishing.lora_files import export_all
from trainer_core.stages.publishing.lora_names import PROOF, published_names
from trainer_core.stages.publishing.outputs import publish_files, remove_outputs
from trainer_core.stages.training.save_schedule import SAVES, SaveSchedule, snapshot_path
from trainer_core.types import JSON

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.export.module_names import Modules
    from trainer_core.stages.training.best_checkpoint import Selection

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saves:
    """The saved steps of a finished run."""

    steps: tuple[Mapping[str, JSON], ...]
    """Of each its `step`, `held_out_loss` and `weights_sha256`."""
    outputs: Mapping[str, str]
    """File of the result -> its name in `outputs/NAME/`."""


@dataclass(frozen=True)
class Saver:
    """Keeps weights and publishes files as a run goes."""

    context: LoraContext
    workdir: Path
    schedule: SaveSchedule
    selection: Selection
    modules: Modules

    def on_step(self, step: int, adapter: Mapping[str, Tensor]) -> None:
        """Keep the weights of a step, publish its files, and give up those that are too many."""
        write_snapshot(snapshot_path(self.workdir, step), adapter)
        if step not in self.schedule.saved:
            return
        self._publish(step, adapter)
        kept = self.schedule.kept(step, self.selection.losses())
        for gone in sorted(mark for mark in self.schedule.saved - kept if mark <= step):
            remove_outputs(self.context.workspace.outputs, self._names(gone).values())
            if gone not in self.schedule.sampled:
                snapshot_path(self.workdir, gone).unlink(missing_ok=True)

    def _publish(self, step: int, adapter: Mapping[str, Tensor]) -> None:
        folder = self.workdir / f".tmp-{SAVES}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            export_all(replace(self.context, staging=folder), self.modules, adapter, step)
            names = self._names(step)
            publish_files(self.context.workspace.outputs, {folder / file: names[file] for file in _written(folder)})
        except LoraAssetsError as error:
            # Hours of training are not given up for a file on the way.
            log.warning("the LoRA of step %d is not published, and training goes on: %s", step, error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _names(self, step: int) -> dict[str, str]:
        return {file: name.format(name=self.context.workspace.output_name) for file, name in output_names(step).items()}


def output_names(step: int) -> dict[str, str]:
    """Return file of a saved step -> its name in `outputs/NAME/`, for every format there is."""
    return {file: name.replace("{name}", f"{{name}}-step{step:08d}", 1) for file, name in published_names().items()}


def collect_saves(
    context: LoraContext, workdir: Path, schedule: SaveSchedule, losses: Mapping[int, float], modules: Modules
) -> Saves | None:
    """Export the saved steps of a finished run into the result; None if none was asked for."""
    saved: list[Mapping[str, JSON]] = []
    outputs: dict[str, str] = {}
    for step in sorted(schedule.kept(run_length(context).steps, losses)):
        folder = context.staging / SAVES / f"step-{step:08d}"
        adapter = read_snapshot(path) if (path := snapshot_path(workdir, step)).exists() else None
        if adapter is None:
            log.warning("%s: the weights of step %d are lost, so its files are not in the result", path, step)
            continue
        folder.mkdir(parents=True)
        try:
            exports = export_all(replace(context, staging=folder), modules, adapter, step)
        except LoraAssetsError as error:
            log.warning("the LoRA of step %d is left out of the result: %s", step, error)
            shutil.rmtree(folder)
            continue
        files = _written(folder)
        _remove_others(folder, (*files, PROOF))
        names = output_names(step)
        outputs |= {f"{SAVES}/{folder.name}/{file}": names[file] for file in files}
        saved.append({"step": step, "held_out_loss": losses.get(step), "weights_sha256": exports.weights_sha256})
    return Saves(tuple(saved), outputs) if schedule.saved else None


def _written(folder: Path) -> list[str]:
    return [file for file in published_names() if (folder / file).exists()]


def _remove_others(folder: Path, kept: Iterable[str]) -> None:
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()
