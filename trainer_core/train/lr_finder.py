"""The learning-rate range test (arXiv 1506.01186): the rate rises step by step, and the loss tells which rates learn.

The losses of a few hundred steps of diffusion differ by their noise and timesteps far more than by what was learnt.
So each is held against the loss of the untrained model on the very same draws: what is left is the effect of training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from trainer_core.errors import NonFiniteError
from trainer_core.train import loop
from trainer_core.train.observe.plots import running_mean
from trainer_core.train.trainer import Trainer, micro_batch_number
from trainer_core.types import JSON, ProgressEvent, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGE = "find_lr"
"""The name that progress is reported under."""
SMOOTHING = 0.9
DIVERGED = 1.5
"""The test ends where the smoothed share of the untrained loss is this many times its lowest."""
LEARNT = 0.99
"""Shares above it are no sign of learning."""


@dataclass(frozen=True)
class RangeTest:
    """Which rates are tried."""

    first: float
    last: float
    steps: int

    def rate(self, step: int) -> float:
        """Return the rate of a step counted from 0: evenly spread over the orders of magnitude."""
        return self.first * (self.last / self.first) ** (step / max(1, self.steps - 1))


@dataclass(frozen=True)
class Reading:
    """One step."""

    rate: float
    loss: float
    share: float
    """Running mean of the losses over that of the untrained model on the same draws; below 1 it has learnt."""


@dataclass(frozen=True)
class FoundLr:
    """What the test says."""

    readings: tuple[Reading, ...]
    steepest: float | None
    """Rate at which the loss falls fastest; None where no rate lowered it."""
    lowest: float | None
    """Rate at which the loss is lowest."""
    diverged: float | None
    """Rate at which the loss was lost; None where the range ended before."""

    @property
    def suggested(self) -> float | None:
        """The more careful of two usual answers: where the loss falls fastest, and a tenth of where it is lowest."""
        if self.steepest is None or self.lowest is None:
            return None
        return float(f"{min(self.steepest, self.lowest / 10):.1e}")

    def as_dict(self) -> dict[str, JSON]:
        """The stable JSON form of `find-lr --json`."""
        return {
            "suggested": self.suggested,
            "steepest": self.steepest,
            "tenth_of_lowest": None if self.lowest is None else self.lowest / 10,
            "lowest": self.lowest,
            "diverged": self.diverged,
            "readings": [{"rate": one.rate, "loss": one.loss, "share": one.share} for one in self.readings],
        }


def range_test(trainer: Trainer, asked: RangeTest) -> FoundLr:
    """Train with rising rates until the range or the loss ends.

    Args:
        trainer: at step 0, with `total_steps` those of the test, `logging.every` 1, and nothing that measures or saves.
        asked: the rates of the denoiser's down matrices; other groups keep their ratio to it.
    """
    report, peak = trainer.report, trainer.project.optimizer.lr
    untrained = _untrained_losses(trainer, asked.steps)
    watcher = _Watcher(asked, untrained, report)
    trainer.report = watcher
    trainer.multiplier = lambda step: asked.rate(step) / peak
    diverged = None
    try:
        loop.run(trainer)
    except (_Diverged, NonFiniteError):
        diverged = asked.rate(len(watcher.losses) - 1) if watcher.losses else asked.first
    return judge(asked, watcher.losses, untrained, diverged)


def judge(asked: RangeTest, losses: Sequence[float], untrained: Sequence[float], diverged: float | None) -> FoundLr:
    """Return what the losses say.

    Args:
        asked: the rates.
        losses: of each step that was done.
        untrained: of the untrained model on the same draws; at least as many.
        diverged: the rate at which the test was ended early.
    """
    shares = smoothed_shares(losses, untrained)
    readings = tuple(
        Reading(asked.rate(step), loss, share) for step, (loss, share) in enumerate(zip(losses, shares, strict=True))
    )
    bottom = min(range(len(shares)), key=shares.__getitem__, default=0)
    if not shares or shares[bottom] > LEARNT:
        return FoundLr(readings, None, None, diverged)
    # Over a few steps on both sides, so that one lucky draw is no slope.
    reach = max(1, len(shares) // 20)

    def slope(step: int) -> float:
        before, after = max(0, step - reach), min(bottom, step + reach)
        return (shares[after] - shares[before]) / max(1, after - before)

    steepest = min(range(bottom + 1), key=slope)
    return FoundLr(readings, readings[steepest].rate, readings[bottom].rate, diverged)


def smoothed_shares(losses: Sequence[float], untrained: Sequence[float]) -> list[float]:
    """Return the running mean of the losses over that of the untrained ones, step by step."""
    trained_means = running_mean(losses, SMOOTHING)
    untrained_means = running_mean(untrained[: len(losses)], SMOOTHING)
    return [one / max(other, 1e-12) for one, other in zip(trained_means, untrained_means, strict=True)]


def write_picture(found: FoundLr, path: Path) -> None:
    """Draw the share of the untrained loss over the rate, 900 x 420 px, with what was found."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), dpi=100, layout="constrained")
    axes: Axes = figure.add_subplot()
    rates = [one.rate for one in found.readings]
    axes.plot(rates, [one.share for one in found.readings], color="#4c78a8", linewidth=2, label="running mean")
    axes.axhline(1.0, color="#999999", linewidth=1, linestyle=":")
    for rate, colour, told in (
        (found.steepest, "#54a24b", "falls fastest"),
        (found.lowest, "#f58518", "lowest"),
        (found.suggested, "#b279a2", "suggested"),
    ):
        if rate is not None:
            axes.axvline(rate, color=colour, linestyle="--", linewidth=1.5, label=f"{told}: {rate:.2g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss as a share of the untrained model's")
    axes.grid(alpha=0.25)
    axes.legend()
    figure.savefig(path, metadata={"Software": None})


class _Diverged(Exception):
    """The loss is lost: higher rates tell nothing."""


class _Watcher:
    """Takes the losses from the progress of the loop, and ends it when they are lost."""

    def __init__(self, asked: RangeTest, untrained: Sequence[float], report: Report) -> None:
        self.asked, self.untrained, self.report = asked, untrained, report
        self.losses: list[float] = []

    def __call__(self, event: ProgressEvent) -> None:
        """Take one step."""
        self.losses.append(event.values["loss"])
        self.report(replace(event, stage=STAGE, done=event.done + self.asked.steps, total=2 * self.asked.steps))
        shares = smoothed_shares(self.losses, self.untrained)
        if not math.isfinite(shares[-1]) or shares[-1] > DIVERGED * min(1.0, *shares):
            raise _Diverged


@torch.no_grad()
def _untrained_losses(trainer: Trainer, steps: int) -> list[float]:
    """Return the loss of each step as it would be if nothing were trained."""
    accumulation = range(trainer.project.train.gradient_accumulation_steps)
    losses: list[float] = []
    for step in range(steps):
        batches = [trainer.loader.batch(micro_batch_number(trainer, step, one)) for one in accumulation]
        losses.append(fmean(float(loop.training_loss(trainer, batch)) for batch in batches))
        trainer.report(ProgressEvent(STAGE, step + 1, 2 * steps, "step"))
    return losses
