"""Curves of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.train.observe.metrics import StepMetrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_TRAINING, _HELD_OUT, _CHOSEN, _RATE = "#4c78a8", "#54a24b", "#b279a2", "#f58518"


def write_loss_curve(metrics: Sequence[StepMetrics], held_out: Mapping[int, float], selected: int, path: Path) -> None:
    """Save the picture of `loss_curve` as a PNG of 1200 x 720 px with a palette, a fifth of its size without."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(loss_curve(metrics, held_out, selected))
    canvas.draw()
    drawn = Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba()))
    drawn.convert("RGB").quantize(64, Image.Quantize.FASTOCTREE).save(path, "PNG")


def loss_curve(metrics: Sequence[StepMetrics], held_out: Mapping[int, float], selected: int) -> Figure:
    """Draw four panels over steps: losses, learning rate, time of a step by phase, and memory with the GPU's sensors.

    Training loss is weighted by the settings of `loss`, held-out loss is not: they cannot be compared, so each has an
    axis of its own, in its colour. Faint: as logged; strong: a running mean.

    Args:
        metrics: the lines of metrics.jsonl.
        held_out: step -> held-out loss; step 0 is the base.
        selected: the step that became the LoRA, marked by a line.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.2), dpi=100)
    # Fixed margins: to let matplotlib find them costs as long as a short training.
    margins = {"left": 0.07, "right": 0.95, "bottom": 0.08, "top": 0.93, "hspace": 0.1, "wspace": 0.3}
    panels = figure.subplots(2, 2, sharex=True, gridspec_kw={"width_ratios": (3, 2), **margins})
    training, rate, speed, memory = panels.flat
    steps = [line.step for line in metrics]
    _draw_training(training, steps, [line.loss for line in metrics])
    training.axvline(selected, color=_CHOSEN, linestyle="--", linewidth=1.5, label=f"chosen: step {selected}")
    explained, _ = training.get_legend_handles_labels()
    if held_out:
        measured = training.twinx()
        _draw_held_out(measured, held_out)
        explained += measured.get_legend_handles_labels()[0]
    rate.plot(steps, [line.lr for line in metrics], color=_RATE, linewidth=1.2)
    _dress(rate, "learning rate")
    _draw_time(speed, metrics)
    _draw_memory(memory, metrics)
    figure.legend(handles=explained, loc="upper center", ncols=4)
    return figure


def _draw_time(axes: Axes, metrics: Sequence[StepMetrics]) -> None:
    """Draw how long a step takes, and what of it is which phase."""
    timed = [line for line in metrics if line.phases]
    if timed:
        names = [name for name in timed[0].phases if any(line.phases.get(name) for line in timed)]
        shares = [[line.phases.get(name, 0.0) for line in timed] for name in names]
        axes.stackplot([line.step for line in timed], shares, labels=names, alpha=0.75)
        axes.legend(loc="upper left", fontsize="x-small", ncols=3)
    else:
        axes.plot([line.step for line in metrics], [1 / max(line.it_per_s, 1e-9) for line in metrics], color=_RATE)
    axes.set_xlabel("step")
    _dress(axes, "seconds a step")


def _draw_memory(axes: Axes, metrics: Sequence[StepMetrics]) -> None:
    """Draw peak memory, and where there is a GPU how busy and how hot it is."""
    steps = [line.step for line in metrics]
    axes.plot(steps, [(line.peak_mib or line.memory_mib) / 1024 for line in metrics], color=_TRAINING, linewidth=1.5)
    axes.set_xlabel("step")
    _dress(axes, "peak memory, GiB")
    gpu = [line for line in metrics if line.gpu]
    if gpu:
        other = axes.twinx()
        for name, factor, colour in (("gpu_utilisation", 100, _HELD_OUT), ("gpu_temp_c", 1, _CHOSEN)):
            other.plot([line.step for line in gpu], [line.gpu.get(name, 0) * factor for line in gpu], color=colour)
        other.set_ylabel("GPU: busy % (green), deg C")
        other.set_ylim(0, 105)


def _dress(axes: Axes, label: str) -> None:
    axes.set_ylabel(label)
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    axes.grid(alpha=0.25)


def _draw_training(axes: Axes, steps: Sequence[int], losses: Sequence[float]) -> None:
    axes.plot(steps, losses, color=_TRAINING, alpha=0.35, linewidth=1, label="training loss as logged")
    axes.plot(steps, running_mean(losses), color=_TRAINING, linewidth=2, label="running mean")
    axes.set_ylabel("training loss (weighted)", color=_TRAINING)
    axes.tick_params(axis="y", colors=_TRAINING)
    axes.grid(alpha=0.25)


def _draw_held_out(axes: Axes, held_out: Mapping[int, float]) -> None:
    measured = sorted(held_out)
    axes.plot(measured, [held_out[step] for step in measured], color=_HELD_OUT, marker="o", label="held-out loss")
    axes.set_ylabel("held-out loss (unweighted)", color=_HELD_OUT)
    axes.tick_params(axis="y", colors=_HELD_OUT)


def running_mean(values: Sequence[float], share: float = 0.9) -> list[float]:
    """Return the bias-corrected exponential mean of `values`."""
    means: list[float] = []
    total = weight = 0.0
    for value in values:
        total = share * total + (1 - share) * value
        weight = share * weight + (1 - share)
        means.append(total / weight)
    return means
