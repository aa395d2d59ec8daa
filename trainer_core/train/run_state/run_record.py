"""run.json of a training run, and the other runs that a new run can go on from. No torch here.

    runs/KEY/run.json    {"version": 2, "training": "...", "held_out": "...", "steps": 1500}

`training` is a digest of everything that decides the weights of a step, except how long the run is. Two runs with the
same one train the same weights as long as their schedules give the same rates. `held_out` is a digest of the samples
that losses are measured on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer_core.config.groups import ScheduleConfig
from trainer_core.store.disk import write_atomic
from trainer_core.train.optim.schedules import steps_of_any_length

_FILE = "run.json"
_VERSION = 2


@dataclass(frozen=True)
class RunRecord:
    """What a run trains."""

    training: str
    """Digest of what decides its weights, except the length."""
    held_out: str
    """Digest of the held-out samples."""
    steps: int
    """Optimizer steps of the whole run."""

    def write(self, root: Path, workdir: Path) -> None:
        """Write run.json into the folder of a run. `root` is the store's."""
        values = {"version": _VERSION, "training": self.training, "held_out": self.held_out, "steps": self.steps}
        write_atomic(root, workdir / _FILE, json.dumps(values).encode())

    @classmethod
    def read(cls, workdir: Path) -> RunRecord | None:
        """Read run.json; None where it is missing, damaged or of another version."""
        try:
            values = json.loads((workdir / _FILE).read_bytes())
            if values["version"] != _VERSION:
                return None
            return cls(str(values["training"]), str(values["held_out"]), int(values["steps"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class StartingPoint:
    """A checkpoint of another run that a run can go on from."""

    workdir: Path
    """Folder of the other run."""
    step: int
    run: RunRecord
    """Of the other run."""

    @property
    def checkpoint(self) -> Path:
        """Folder of the checkpoint."""
        return self.workdir / "checkpoints" / checkpoint_name(self.step)


def checkpoint_name(step: int) -> str:
    """Return the name of a checkpoint's folder."""
    return f"step-{step:08d}"


def other_runs(runs: Path, wanted: RunRecord, but: Path) -> Iterator[tuple[Path, RunRecord]]:
    """Yield (folder, record) of the runs that train the same as `wanted`, of another length or measured otherwise."""
    for folder in sorted(runs.glob("*")):
        record = RunRecord.read(folder)
        if record is not None and folder != but and record.training == wanted.training:
            yield folder, record


def starting_points(runs: Path, wanted: RunRecord, schedule: ScheduleConfig, but: Path) -> list[StartingPoint]:
    """Return the checkpoints of other runs at which a run of `wanted.steps` has the same weights.

    Args:
        runs: the store's folder of runs.
        wanted: the run that is to be trained.
        schedule: of both runs.
        but: folder of the run itself.

    Returns:
        The latest step first.
    """
    points = [
        StartingPoint(folder, step, other)
        for folder, other in other_runs(runs, wanted, but)
        for step in _saved_steps(folder / "checkpoints")
        if 0 < step <= _same_weights(other.steps, wanted.steps, schedule)
    ]
    return sorted(points, key=lambda point: (-point.step, point.workdir.name))


def _same_weights(one: int, other: int, schedule: ScheduleConfig) -> int:
    """Return the last step at which runs of these lengths have the same weights."""
    return one if one == other else min(steps_of_any_length(schedule, steps) for steps in (one, other))


def _saved_steps(checkpoints: Path) -> Iterator[int]:
    for folder in checkpoints.glob("step-*"):
        if (folder / "MANIFEST.json").is_file():
            yield int(folder.name.removeprefix("step-"))
