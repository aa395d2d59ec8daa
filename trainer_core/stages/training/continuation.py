"""A run that goes on from another one, where both train the same up to a checkpoint of the other.

The other has another length, or other held-out pictures. Losses on other pictures are of no use, and cannot be measured
again, as the weights of most steps are gone. So with `train.select: last`, where they choose nothing, the new run has
losses from that checkpoint on; with `best` it starts over.

The result equals that of a run from the start, bit for bit on one CPU: order and noise are functions of the step, and
the rates are the same up to there (`steps_of_any_length`). What a run keeps besides its weights must be there too: the
held-out losses that it would have measured, the best weights among these, and the weights at its save steps.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer_core.config.groups import ScheduleConfig
from trainer_core.errors import StoreError
from trainer_core.stages.lora_settings import LoraContext, evaluation_plan, run_length
from trainer_core.stages.training.best_checkpoint import Selection
from trainer_core.stages.training.run_key import Entries, run_key_over, split_inputs, training_recipe
from trainer_core.stages.training.save_schedule import SNAPSHOTS, SaveSchedule, snapshot_path
from trainer_core.store.disk import temp_path
from trainer_core.store.keys import digest
from trainer_core.train.optim.schedules import depends_on_length
from trainer_core.train.run_state.run_record import RunRecord, StartingPoint, other_runs, starting_points

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Continuation:
    """What decides whether a run can go on from another one."""

    root: Path
    """The store's."""
    workdir: Path
    """runs/KEY of the run."""
    record: RunRecord
    schedule: ScheduleConfig
    selection: Selection
    saves: SaveSchedule
    measures: bool
    """Whether samples are held out, so that losses are measured."""
    selects: bool
    """Whether losses decide which weights are kept."""

    @property
    def fresh(self) -> bool:
        """Whether the run has no checkpoint of its own."""
        return not any((self.workdir / "checkpoints").glob("step-*"))

    def find(self) -> StartingPoint | None:
        """Return the latest checkpoint of another run that this one can go on from."""
        points = starting_points(self.root / "runs", self.record, self.schedule, self.workdir)
        return next((point for point in points if not self._problem(point)), None)

    def forecast(self) -> str:
        """Say in words what a run of this length does with one of another length; empty if there is none.

        Cheap enough for every `plan`.
        """
        others = sorted(run.steps for _, run in other_runs(self.root / "runs", self.record, self.workdir))
        if not others or not self.fresh:
            return ""
        if point := self.find():
            return self._going_on(point)
        return f"starts over, not from the run of {others[-1]} steps: {self._reason()}"

    def _going_on(self, point: StartingPoint) -> str:
        if point.step == self.record.steps:
            return (
                "trains nothing: only the held-out pictures are others, and the finished weights are measured on them"
            )
        finished = "finished run" if point.step == point.run.steps else f"run of {point.run.steps} steps"
        return f"goes on from step {point.step} of the {finished}"

    def adopt(self) -> StartingPoint | None:
        """Copy what the run goes on from into its folder, the checkpoint last; None where it starts from the beginning.

        The caller holds the run's lock.
        """
        if not self.fresh or (point := self.find()) is None:
            return None
        try:
            self._copy(point)
        except (OSError, StoreError) as error:
            # The other run is not locked: it may be trained further or removed meanwhile.
            log.warning("the run starts over: %s could not be copied (%s)", point.checkpoint, error)
            return None
        log.info("going on from step %d of the run of %d steps", point.step, point.run.steps)
        return point

    def _reason(self) -> str:
        points = starting_points(self.root / "runs", self.record, self.schedule, self.workdir)
        problems = [problem for point in points if (problem := self._problem(point))]
        if not problems and (reason := depends_on_length(self.schedule)):
            return reason
        return problems[0] if problems else "it keeps no checkpoint from before the steps where the two differ"

    def _problem(self, point: StartingPoint) -> str:
        """Return why the other run's checkpoint does not do; empty if it does."""
        if self._measured_otherwise(point) and self.selects:
            return "other pictures are held out, and their losses choose the weights (train.select, save.keep_best)"
        if self._shares_losses(point) and self.selects and (first := self._of(point.workdir).first):
            return f"it measured held-out losses from step {first} on only, and the losses choose the weights"
        losses = self._losses(point)
        if self._shares_losses(point) and (
            problem := self._of(point.workdir).problem_at(losses, point.step, read=False)
        ):
            hint = f" (train.evaluate_every is {self.selection.every} for this run)"
            return problem + hint
        missing = [step for step in self._snapshots(point, losses) if not snapshot_path(point.workdir, step).is_file()]
        return f"it kept no weights of steps {missing}, at which this run saves or samples" if missing else ""

    def _measured_otherwise(self, point: StartingPoint) -> bool:
        return self.measures and point.run.held_out != self.record.held_out

    def _shares_losses(self, point: StartingPoint) -> bool:
        return self.measures and point.run.held_out == self.record.held_out

    def _losses(self, point: StartingPoint) -> dict[int, float]:
        """Return the losses of the other run that this one would have measured too."""
        if not self._shares_losses(point):
            return {}
        losses = self._of(point.workdir).losses()
        return {step: loss for step, loss in losses.items() if step <= point.step and self.selection.due(step)}

    def _snapshots(self, point: StartingPoint, losses: Mapping[int, float]) -> list[int]:
        sampled = (step for step in self.saves.sampled if step <= point.step)
        return sorted({*sampled, *self.saves.kept(point.step, losses)})

    def _of(self, workdir: Path) -> Selection:
        return Selection(workdir, self.selection.every, self.selection.steps, self.selection.also)

    def _copy(self, point: StartingPoint) -> None:
        # Only work needs torch, so only here.
        from trainer_core.train.run_state.checkpoint import check_state

        losses = self._losses(point)
        (self.workdir / SNAPSHOTS).mkdir(parents=True, exist_ok=True)
        for step in self._snapshots(point, losses):
            shutil.copyfile(snapshot_path(point.workdir, step), snapshot_path(self.workdir, step))
        if self._shares_losses(point):
            self.selection.adopt(losses, self._of(point.workdir))
            if first := self._of(point.workdir).first:
                self.selection.begin_at(first)
        elif self.measures:
            self.selection.begin_at(point.step)
        shutil.copyfile(point.workdir / "metrics.jsonl", self.workdir / "metrics.jsonl")
        temporary = temp_path(self.root)
        shutil.copytree(point.checkpoint, temporary)
        if problem := check_state(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
            raise StoreError(f"{point.checkpoint} is damaged: {problem}. Remove that folder, and run again.")
        (self.workdir / "checkpoints").mkdir(exist_ok=True)
        temporary.rename(self.workdir / "checkpoints" / point.checkpoint.name)


def selection_of(context: LoraContext, workdir: Path) -> Selection:
    """Return the held-out losses of a run."""
    steps = run_length(context).steps
    return Selection(workdir, evaluation_plan(context).every, steps, SaveSchedule.of(context).measured)


def continuation_of(context: LoraContext, upstream: Mapping[str, str], entries: Entries, workdir: Path) -> Continuation:
    """Return what decides whether the run in `workdir` can go on from another run.

    Args:
        context: the stage's; nothing upstream is read from it.
        upstream: stage -> data version of its result.
        entries: stage -> name of an entry of that result -> its key.
        workdir: folder of the run; it need not exist.
    """
    workspace = context.workspace
    inputs = split_inputs(context, upstream, entries)
    recipe = training_recipe(context, upstream)
    # When and of what losses are measured changes no weights.
    for name in ("evaluate_every", "evaluate_samples", "evaluate_share"):
        recipe["settings"]["train"].pop(name, None)
    recipe.pop("evaluation", None)
    return Continuation(
        root=workspace.store.root,
        workdir=workdir,
        record=RunRecord(digest(recipe | {"upstream": inputs.training}), inputs.held_out, run_length(context).steps),
        schedule=context.settings.schedule,
        selection=selection_of(context, workdir),
        saves=SaveSchedule.of(context),
        measures=any(sample.split == "held_out" for sample in workspace.manifest.samples),
        selects=losses_choose(context),
    )


def losses_choose(context: LoraContext) -> bool:
    """Say whether held-out losses decide which weights of a run are kept."""
    return context.settings.train.select == "best" or bool(SaveSchedule.of(context).measured)


def forecast(context: LoraContext, upstream: Mapping[str, str], entries: Entries) -> str:
    """Say what a run does with a finished one that trains the same; empty if there is none."""
    workdir = context.workspace.store.root / "runs" / run_key_over(context, upstream)
    return continuation_of(context, upstream, entries, workdir).forecast()
