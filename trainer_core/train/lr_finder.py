"""The learning-rate range test (arXiv 1506.01186): the rate rises step by step, and the loss tells which rates learn.

The losses of a few hundred steps of diffusion differ by their noise and timesteps far more than by what was learnt.
So each is divided by the loss of the untrained model on the very same draws: what is left is the effect of training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from trainer_core.errors import NonFiniteError
from trainer_core.train import loop
from trainer_core.train.objective import training_loss
from trainer_core.train.observe.plots import running_mean
from trainer_core.train.range_test import FoundLr, RangeTest, Reading
from trainer_core.train.trainer import Trainer, micro_batch_number
from trainer_core.types import ProgressEvent, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STAGE, BASELINE = "find_lr", "untrained_loss"
"""The names that progress is reported under: of the training, and of the losses of the untrained model before it."""
SMOOTHING = 0.9
DIVERGED = 1.5
"""The test ends where the smoothed share of the untrained loss is this many times its lowest."""
LEARNT = 0.99
"""Shares above it are no sign of learning."""
_NEAR = 0.03
"""Orders of magnitude between lines of the picture below which they cannot be told apart."""


def range_test(trainer: Trainer, asked: RangeTest) -> FoundLr:
    """Train with rising rates until the range or the loss ends.

    Args:
        trainer: at step 0, with `total_steps` those of the test, `logging.every` 1, and nothing that measures or saves.
        asked: the rates of the denoiser's down matrices; other groups keep their ratio to it.
    """
    report, peak = trainer.report, trainer.project.optimizer.lr
    untrained = _untrained_losses(trainer, asked.steps)
    losses = _Losses(untrained, report)
    trainer.report = losses
    trainer.multiplier = lambda step: asked.rate(step) / peak
    try:
        loop.run(trainer, should_stop=losses.diverged)
        diverged = losses.diverged()
    except NonFiniteError:
        diverged = True
    last = asked.rate(max(0, len(losses.values) - 1))
    return judge(asked, losses.values, untrained, last if diverged else None)


def judge(asked: RangeTest, losses: Sequence[float], untrained: Sequence[float], diverged: float | None) -> FoundLr:
    """Return the result of a series of losses.

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
    return [mean / max(other, 1e-12) for mean, other in zip(trained_means, untrained_means, strict=True)]


def write_picture(result: FoundLr, path: Path) -> None:
    """Save the picture of `picture` as a PNG of 900 x 420 px."""
    picture(result).savefig(path, metadata={"Software": None})


def picture(result: FoundLr) -> Figure:
    """Draw the share of the untrained loss over the rate, with a line at each rate that the test gives."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), dpi=100, layout="constrained")
    axes: Axes = figure.add_subplot()
    rates = [reading.rate for reading in result.readings]
    axes.plot(rates, [reading.share for reading in result.readings], color="#4c78a8", linewidth=2, label="running mean")
    axes.axhline(1.0, color="#999999", linewidth=1, linestyle=":")
    for (rate, names), colour in zip(_marked_rates(result).items(), ("#b279a2", "#f58518", "#54a24b"), strict=False):
        label = f"{' and '.join(names)}: {rate:.2g}"
        axes.axvline(rate, color=colour, linestyle="--", linewidth=1.5, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss as a share of the untrained model's")
    axes.grid(alpha=0.25)
    axes.legend()
    return figure


def _marked_rates(result: FoundLr) -> dict[float, list[str]]:
    """Return rate -> its names. Rates that look the same in the picture are one line with several names."""
    marked: dict[float, list[str]] = {}
    named = (("suggested", result.suggested), ("lowest loss", result.lowest), ("falls fastest", result.steepest))
    for name, rate in named:
        if rate is None:
            continue
        near = next((other for other in marked if abs(math.log10(other / rate)) < _NEAR), rate)
        marked.setdefault(near, []).append(name)
    return marked


class _Losses:
    """Takes the losses from the progress of the loop."""

    def __init__(self, untrained: Sequence[float], report: Report) -> None:
        self.untrained, self.report = untrained, report
        self.values: list[float] = []

    def __call__(self, event: ProgressEvent) -> None:
        """Take one step."""
        self.values.append(event.values["loss"])
        self.report(replace(event, stage=STAGE))

    def diverged(self) -> bool:
        """Say whether the loss is so high, or not finite, that higher rates would show nothing."""
        shares = smoothed_shares(self.values, self.untrained)
        return bool(shares) and (not math.isfinite(shares[-1]) or shares[-1] > DIVERGED * min(1.0, *shares))


@torch.no_grad()
def _untrained_losses(trainer: Trainer, steps: int) -> list[float]:
    """Return the loss of each step as it would be if nothing were trained."""
    accumulation = range(trainer.project.train.gradient_accumulation_steps)
    losses: list[float] = []
    for step in range(steps):
        batches = [trainer.loader.batch(micro_batch_number(trainer, step, number)) for number in accumulation]
        losses.append(fmean(float(training_loss(trainer, batch)) for batch in batches))
        trainer.report(ProgressEvent(BASELINE, step + 1, steps, "step"))
    return losses
