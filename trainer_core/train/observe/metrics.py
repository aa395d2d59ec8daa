"""metrics.jsonl of a run: one line of means every `logging.every` steps. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trainer_core.files import append_record, read_records, rewrite_records


@dataclass(frozen=True)
class StepMetrics:
    """One line of metrics.jsonl: means over the steps since the line before."""

    step: int
    loss: float
    lr: float
    grad_norm: float | None
    """Global norm before clipping, of the last step; None where fp16 overflowed and the step was skipped."""
    it_per_s: float
    samples_per_s: float
    memory_mib: float
    data_wait: float
    """Share of the time spent waiting for batches, in [0, 1]."""
    time: str = field(default="", compare=False)
    """When the line was written, ISO 8601 with milliseconds and the offset of the time zone; empty in old files."""
    rates: Mapping[str, float] = field(default_factory=dict[str, float])
    """`lr/PART` -> its learning rate, and `d*lr/PART` for optimizers that find their own; empty in old files."""

    def curves(self) -> dict[str, float]:
        """Return what services draw of it."""
        curves = {
            "loss/train": self.loss,
            "speed/steps_per_s": self.it_per_s,
            "speed/samples_per_s": self.samples_per_s,
            "speed/data_wait": self.data_wait,
            "memory/mib": self.memory_mib,
            **self.rates,
        }
        return curves if self.grad_norm is None else curves | {"grad_norm": self.grad_norm}


def held_out_curve(loss: float) -> dict[str, float]:
    """Return what services draw of a measurement of the held-out loss."""
    return {"loss/held_out": loss}


def earlier_points(
    lines: Iterable[StepMetrics], held_out: Mapping[int, float], last: int
) -> list[tuple[int, Mapping[str, float]]]:
    """Return the points of all curves up to a step: (step, curve -> value), in order.

    Args:
        lines: of metrics.jsonl.
        held_out: step -> held-out loss.
        last: the step that the run goes on from.
    """
    points = {step: held_out_curve(loss) for step, loss in held_out.items() if step <= last}
    for line in lines:
        if line.step <= last:
            points[line.step] = points.get(line.step, {}) | line.curves()
    return sorted(points.items())


class MetricsFile:
    """Appends to metrics.jsonl. Lines after the step that a run resumes from are dropped: no step appears twice."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        kept = [line for line in read_metrics(path) if line.step <= resumed_step]
        rewrite_records(path, map(asdict, kept))

    def write(self, metrics: StepMetrics) -> None:
        """Append one line."""
        append_record(self.path, asdict(metrics))


def read_metrics(path: Path) -> list[StepMetrics]:
    """Read metrics.jsonl; lines cut short by a kill or damaged since are left out."""
    metrics: list[StepMetrics] = []
    for record in read_records(path):
        with suppress(TypeError):
            metrics.append(StepMetrics(**record))
    return metrics
