"""Which step of a run becomes the LoRA: held-out losses by step, and the weights of the best step so far.

    runs/KEY/held_out.jsonl                     one sealed line a measurement; step 0 is the base
    runs/KEY/held_out_from.json                 first step measured, where it went on from another run
    runs/KEY/best/step-00000300.safetensors     weights of a step that was the best when it was measured

Both survive kills with the run's checkpoints: what was measured after the step that a run goes on from is forgotten and
measured again, and a checkpoint whose measurements are not whole is not gone on from.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.export.snapshots import read_snapshot, write_snapshot
from trainer_core.files import append_record, read_records, replacing, rewrite_records
from trainer_core.types import JSON

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

HELD_OUT = "held_out.jsonl"
_FROM = "held_out_from.json"
_BEST = "best"


@dataclass(frozen=True)
class Selection:
    """The held-out losses of the run in `workdir`, measured every `every` steps and at the end."""

    workdir: Path
    every: int
    steps: int
    """Optimizer steps of the whole run."""
    also: frozenset[int] = frozenset()
    """Further steps after which it is measured."""

    def due(self, step: int) -> bool:
        """Whether the loss is measured after `step` steps."""
        return step % self.every == 0 or step == self.steps or step in self.also

    def losses(self) -> dict[int, float]:
        """Step -> held-out loss. Lines cut short by a kill or damaged since are left out."""
        losses: dict[int, float] = {}
        for record in read_records(self._file):
            with suppress(ValueError, TypeError, KeyError):
                losses[int(record["step"])] = float(record["loss"])
        return losses

    def add(self, step: int, loss: float, adapter: Mapping[str, Tensor]) -> None:
        """Keep a measurement, and the weights if they are the best so far.

        The weights come first, so that a line never speaks of weights that a kill kept from being written.
        """
        before = self.losses()
        if step and loss < min((known for at, known in before.items() if at), default=float("inf")):
            (self.workdir / _BEST).mkdir(exist_ok=True)
            write_snapshot(self._weights(step), adapter)
        append_record(self._file, _record(step, loss), durable=True)
        self._prune(before | {step: loss})

    def best(self) -> int | None:
        """The step with the lowest loss, the first of equals; None before the first measurement of trained weights."""
        return _best(self.losses())

    def best_weights(self) -> dict[str, Tensor] | None:
        """The weights of the best step; None if they are missing or damaged."""
        step = self.best()
        return None if step is None or not self._weights(step).exists() else read_snapshot(self._weights(step))

    @property
    def first(self) -> int:
        """The first step that is measured: 0, except where the run went on from one with other held-out pictures."""
        try:
            return int(json.loads((self.workdir / _FROM).read_bytes()))
        except (OSError, ValueError, TypeError):
            return 0

    def begin_at(self, step: int) -> None:
        """Note that the losses of earlier steps cannot be measured."""
        with replacing(self.workdir / _FROM) as temporary:
            temporary.write_text(json.dumps(step))

    def measure_from_the_beginning(self) -> None:
        """Require the losses of all steps, as they choose the weights."""
        (self.workdir / _FROM).unlink(missing_ok=True)

    def refuse_checkpoints_without_losses(self, checkpoints: Path) -> None:
        """Remove the checkpoints that a run cannot go on from, as a loss before them or the best weights are lost."""
        losses = self.losses()
        for folder in sorted(checkpoints.glob("step-*"), reverse=True):
            step = int(folder.name.removeprefix("step-"))
            problem = self.problem_at(losses, step)
            if problem is None:
                return
            log.warning("checkpoint %s: %s, so the run does not go on from it", folder, problem)
            shutil.rmtree(folder)

    def forget_after(self, step: int) -> None:
        """Forget measurements of steps that will be done again."""
        self._write({at: loss for at, loss in self.losses().items() if at <= step})

    def _write(self, losses: Mapping[int, float]) -> None:
        rewrite_records(self._file, (_record(at, loss) for at, loss in sorted(losses.items())))

    def adopt(self, losses: Mapping[int, float], other: Selection) -> None:
        """Take over the measurements of another run, and the best weights among them."""
        best = _best(losses)
        if best is not None:
            (self.workdir / _BEST).mkdir(exist_ok=True)
            shutil.copyfile(other._weights(best), self._weights(best))
        self._write(losses)

    def problem_at(self, losses: Mapping[int, float], step: int, read: bool = True) -> str | None:
        """Return why the run cannot go on from `step` with these measurements; None if it can.

        The loss of `step` itself may be missing: its weights are there, so it is measured when the run goes on.

        Args:
            losses: step -> held-out loss.
            step: of the checkpoint.
            read: read the best weights, which needs torch; False only asks whether they are there.
        """
        wanted = {at for at in (*range(0, step + 1, self.every), step) if self.due(at)}
        wanted = (wanted | {at for at in self.also if at <= step}) - {step}
        if first := self.first:
            wanted = {at for at in wanted if at > first}
        if missing := wanted - losses.keys():
            return f"the held-out losses of steps {sorted(missing)} are lost"
        best = _best(_until(losses, step))
        if best is not None and not self._has_weights(best, read):
            return f"the weights of step {best}, the best before it, are lost"
        return None

    def _has_weights(self, step: int, read: bool) -> bool:
        path = self._weights(step)
        return path.exists() and (not read or read_snapshot(path) is not None)

    def _prune(self, losses: Mapping[int, float]) -> None:
        """Remove weights that are neither the best now nor the best at a checkpoint that may be gone back to."""
        checkpoints = (int(path.name.removeprefix("step-")) for path in (self.workdir / "checkpoints").glob("step-*"))
        ends: Iterable[int] = (self.steps, *checkpoints)
        kept = {self._weights(best) for end in ends if (best := _best(_until(losses, end))) is not None}
        for path in (self.workdir / _BEST).glob("step-*.safetensors"):
            if path not in kept:
                path.unlink(missing_ok=True)

    @property
    def _file(self) -> Path:
        return self.workdir / HELD_OUT

    def _weights(self, step: int) -> Path:
        return self.workdir / _BEST / f"step-{step:08d}.safetensors"


def _until(losses: Mapping[int, float], step: int) -> dict[int, float]:
    return {at: loss for at, loss in losses.items() if at <= step}


def _best(losses: Mapping[int, float]) -> int | None:
    trained = {step: loss for step, loss in losses.items() if step}
    return min(trained, key=lambda step: (trained[step], step), default=None)


def _record(step: int, loss: float) -> dict[str, JSON]:
    return {"step": step, "loss": loss}
