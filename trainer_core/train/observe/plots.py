"""Curves of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer_core.train.observe.metrics import StepMetrics


def write_loss_curve(metrics: Sequence[StepMetrics], held_out: Mapping[int, float], selected: int, path: Path) -> None:
    """Draw loss, held-out loss and learning rate over steps, 900 x 420 px. Faint: as logged; strong: a running mean.

    Args:
        metrics: the lines of metrics.jsonl.
        held_out: step -> held-out loss; step 0 is the base.
        selected: the step that became the LoRA, marked by a line.
        path: where the PNG goes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    steps = [line.step for line in metrics]
    losses = [line.loss for line in metrics]
    axes.plot(steps, losses, color="#4c78a8", alpha=0.35, linewidth=1, label="training loss as logged")
    axes.plot(steps, running_mean(losses), color="#4c78a8", linewidth=2, label="running mean")
    if held_out:
        places = sorted(held_out)
        losses = [held_out[step] for step in places]
        axes.plot(places, losses, color="#54a24b", marker="o", label="held-out loss, unweighted")
    axes.axvline(selected, color="#b279a2", linestyle="--", linewidth=1.5, label=f"chosen: step {selected}")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.25)
    rate = axes.twinx()
    rate.plot(steps, [line.lr for line in metrics], color="#f58518", linewidth=1.2, label="learning rate")
    rate.set_ylabel("learning rate")
    rate.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=3)
    figure.savefig(path, metadata={"Software": None})


def running_mean(values: Sequence[float], share: float = 0.9) -> list[float]:
    """Return the bias-corrected exponential mean of `values`."""
    means: list[float] = []
    total = weight = 0.0
    for value in values:
        total = share * total + (1 - share) * value
        weight = share * weight + (1 - share)
        means.append(total / weight)
    return means
