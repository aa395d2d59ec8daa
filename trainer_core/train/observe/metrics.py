"""metrics.jsonl of a run: one line of means every `logging.every` steps. No torch here."""

from __future__ import annotations

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
