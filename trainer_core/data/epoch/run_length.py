"""How pictures, repeats, batches, epochs and steps relate: the one place where the length of a run is worked out.

    images x repeats           = draws of an epoch
    draws in batches           = micro-batches of an epoch, each bucket rounded up for itself
    micro-batches x epochs / (accumulation x processes), rounded up = steps

docs/steps.md works through cases, and says where other trainers round otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING

from trainer_core.config.groups.training import DEFAULT_STEPS
from trainer_core.data.epoch.batch_order import BatchOrder
from trainer_core.types import JSON, Sample

if TYPE_CHECKING:
    from trainer_core.config.groups import TrainConfig


@dataclass(frozen=True)
class DatasetShare:
    """What one dataset has of an epoch."""

    name: str
    images: int
    samples_per_epoch: int
    share: float
    """Of all draws, in [0, 1]."""

    @property
    def repeats(self) -> float:
        """Repeats of a picture, on average; whole where it is whole."""
        return _average(self.samples_per_epoch, self.images)

    def as_dict(self) -> dict[str, JSON]:
        """The stable JSON form of `check --json`."""
        return {
            "name": self.name,
            "images": self.images,
            "repeats": self.repeats,
            "draws": self.samples_per_epoch,
            "share": round(self.share, 6),
        }


@dataclass(frozen=True)
class RunLength:
    """How pictures, batches and steps relate; `batches` counts the micro-batches of an epoch, bucket by bucket."""

    images: int
    samples_per_epoch: int
    batches: int
    batch_size: int
    accumulation: int
    processes: int
    steps: int
    """Optimizer steps of the whole run."""
    datasets: tuple[DatasetShare, ...] = ()

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in which every picture is seen once, times its repeats."""
        return self.batches / (self.accumulation * self.processes)

    @property
    def ideal_steps_per_epoch(self) -> float:
        """The same if every batch were full."""
        return self.samples_per_epoch / (self.batch_size * self.accumulation * self.processes)

    @property
    def epochs(self) -> float:
        """How often the run goes through the dataset."""
        return self.steps / self.steps_per_epoch

    @property
    def repeats(self) -> float:
        """Repeats of a picture, on average; whole where it is whole."""
        return _average(self.samples_per_epoch, self.images)

    def steps_after(self, epochs: float) -> int:
        """Return the first step by which so many epochs are over: what is begun is finished, so it is rounded up."""
        return ceil(self._steps(epochs))

    def due_steps(self, every: int, every_epochs: float) -> tuple[int, ...]:
        """Return the steps of the run at which something falls due that is asked for every so many steps or epochs.

        Args:
            every: steps from one to the next; 0 for none.
            every_epochs: epochs from one to the next; 0 for none. With both, it falls due at either.
        """
        due = set(range(every, self.steps + 1, every)) if every else set[int]()
        if every_epochs and self.batches:
            apart = self._steps(every_epochs)
            if apart <= 1:
                due.update(range(1, self.steps + 1))
            else:
                due.update(ceil(apart * turn) for turn in range(1, int(self.steps / apart) + 1))
        return tuple(sorted(due))

    def as_dict(self) -> dict[str, JSON]:
        """The stable JSON form of `check --json` and `plan --json`."""
        return {
            "images": self.images,
            "repeats": self.repeats,
            "batch_size": self.batch_size,
            "gradient_accumulation": self.accumulation,
            "epochs": self.epochs,
            "steps": self.steps,
            "processes": self.processes,
            "draws_per_epoch": self.samples_per_epoch,
            "batches_per_epoch": self.batches,
            "steps_per_epoch": self.steps_per_epoch,
            "ideal_steps_per_epoch": self.ideal_steps_per_epoch,
            "datasets": [one.as_dict() for one in self.datasets],
        }

    def sentence(self) -> str:
        """The arithmetic in words."""
        noun = "process" if self.processes == 1 else "processes"
        group = f"{self.batch_size} x {self.accumulation} accumulated x {self.processes} {noun}"
        text = (
            f"{self.images} training images x {self.repeats:g} repeats / (batch {group}) = {self.steps_per_epoch:g} "
            f"steps per epoch; {self.steps} steps = {self.epochs:.2f} epochs"
        )
        odd = self.batches * self.batch_size != self.samples_per_epoch
        ideal = f"{self.ideal_steps_per_epoch:.4g} with full batches"
        return f"{text} (batches do not mix buckets, so an epoch takes {self.batches}; {ideal})." if odd else f"{text}."

    def _steps(self, epochs: float) -> Fraction:
        # The decimal that was written: 0.07 of 100 steps are 7, not 8.
        return Fraction(repr(epochs)) * self.batches / (self.accumulation * self.processes)


def run_length(train: TrainConfig, processes: int, samples: Sequence[Sample]) -> RunLength:
    """Return the arithmetic of a run: `train.steps` as given, else from `train.epochs`, else 1500 steps.

    Args:
        train: the settings of training.
        processes: `hardware.num_processes`.
        samples: all samples; those that are held out do not count.
    """
    order = BatchOrder.of(samples, train.batch_size, train.seed)
    found = RunLength(
        images=len(order.samples),
        samples_per_epoch=order.samples_per_epoch,
        batches=order.batches_per_epoch,
        batch_size=train.batch_size,
        accumulation=train.gradient_accumulation_steps,
        processes=processes,
        steps=train.steps or DEFAULT_STEPS,
        datasets=tuple(_shares(order)),
    )
    if train.steps is None and train.epochs is not None:
        return replace(found, steps=found.steps_after(train.epochs))
    return found


def _shares(order: BatchOrder) -> Iterator[DatasetShare]:
    counts: dict[str, tuple[int, int]] = {}
    for sample_id, _, repeats in order.samples:
        name = sample_id.partition("/")[0]
        images, draws = counts.get(name, (0, 0))
        counts[name] = images + 1, draws + repeats
    for name, (images, draws) in counts.items():
        yield DatasetShare(name, images, draws, draws / order.samples_per_epoch)


def _average(draws: int, images: int) -> float:
    return draws // images if draws % images == 0 else draws / images


KEYS = tuple(RunLength(1, 1, 1, 1, 1, 1, 1).as_dict())
"""Keys of the JSON form, in order."""
