"""At which steps of a run its weights are kept, for pictures and for files. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer_core.stages.lora_settings import LoraContext, run_length
from trainer_core.types import JSON

SNAPSHOTS = "snapshots"
"""Folder of a run that holds the weights of its sampled and saved steps."""
SAVES = "saves"
"""Folder of the result that holds a folder for each saved step."""


def snapshot_path(workdir: Path, step: int) -> Path:
    """Return where a run keeps the weights of a step."""
    return workdir / SNAPSHOTS / f"step-{step:08d}.safetensors"


@dataclass(frozen=True)
class SaveSchedule:
    """The steps of a run at which its weights are kept."""

    sampled: frozenset[int]
    """For pictures."""
    saved: frozenset[int]
    """For files."""
    keep_last: int
    """Of the saved ones; 0 for all."""
    keep_best: int

    @classmethod
    def of(cls, context: LoraContext) -> SaveSchedule:
        """Return those of a project."""
        sample, save, length = context.settings.sample, context.settings.save, run_length(context)
        return cls(
            frozenset(length.due_steps(sample.every, sample.every_epochs)),
            frozenset(length.due_steps(save.every, save.every_epochs)),
            save.keep_last,
            save.keep_best if save.keep_last else 0,
        )

    @property
    def all(self) -> frozenset[int]:
        """Steps whose weights are written down."""
        return self.sampled | self.saved

    @property
    def measured(self) -> frozenset[int]:
        """Steps whose held-out loss must be known, so that the best can be told."""
        return self.saved if self.keep_best else frozenset()

    @property
    def key(self) -> dict[str, JSON]:
        """What a run's key holds of them. Weights that are given up are gone, so how many are kept is in it."""
        key: dict[str, JSON] = {"snapshots": sorted(self.all)} if self.all else {}
        if self.saved and self.keep_last:
            key["kept"] = [sorted(self.saved), self.keep_last, self.keep_best]
        return key

    def kept(self, step: int, losses: Mapping[int, float]) -> frozenset[int]:
        """Return the saved steps whose files are there after `step` steps.

        A step that is given up is never among the best later, so what is kept depends on no history but the losses.
        """
        done = sorted(mark for mark in self.saved if mark <= step)
        if not self.keep_last:
            return frozenset(done)
        best = sorted((mark for mark in done if mark in losses), key=lambda mark: (losses[mark], mark))
        return frozenset(done[-self.keep_last :]) | frozenset(best[: self.keep_best])

    @property
    def most_kept(self) -> int:
        """Most sets of weights that lie there at once."""
        saved = min(len(self.saved), self.keep_last + self.keep_best + 1) if self.keep_last else len(self.saved)
        return len(self.sampled) + saved


def is_saved_output(name: str, output_name: str) -> bool:
    """Say whether an output is the file of a saved step of a project whose files are called `output_name`."""
    return re.fullmatch(re.escape(output_name) + r"-step\d{8}(\.[a-z]+)?\.safetensors", name) is not None
