"""metrics.jsonl of a run: one line of means every `logging.every` steps. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trainer_core.files import append_record, parse_records, read_records, rewrite_records
from trainer_core.types import JSON


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
    phases: Mapping[str, float] = field(default_factory=dict[str, float])
    """Phase of a step -> seconds a step, of `phases.PHASES`; empty in old files, as all below."""
    peak_mib: float = 0.0
    """Most memory at once since the line before: allocated on the GPU, or resident."""
    reserved_mib: float = 0.0
    """Most that torch's allocator took of the GPU; the same as `peak_mib` on a CPU."""
    gpu: Mapping[str, float] = field(default_factory=dict[str, float])
    """What the GPU measures of itself: `gpu_utilisation` in [0, 1], `gpu_power_w`, `gpu_temp_c`."""
    anomalies: Sequence[str] = field(default_factory=list[str])
    """What was unusual, in words."""

    def curves(self) -> dict[str, float]:
        """Return what services draw of it."""
        curves = {
            "loss/train": self.loss,
            "speed/steps_per_s": self.it_per_s,
            "speed/samples_per_s": self.samples_per_s,
            "speed/data_wait": self.data_wait,
            "memory/mib": self.memory_mib,
            "memory/peak_mib": self.peak_mib,
            "memory/reserved_mib": self.reserved_mib,
            **self.rates,
        }
        curves |= {f"time/{name}_ms": seconds * 1000 for name, seconds in self.phases.items()}
        curves |= {name.replace("gpu_", "gpu/"): value for name, value in self.gpu.items()}
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
        kept = [asdict(line) for line in read_metrics(path) if line.step <= resumed_step]
        # what the run did when memory ran out holds for the steps that are done again
        rungs = [record for record in read_records(path) if "rung" in record]
        rewrite_records(path, [*rungs, *kept])

    def write(self, metrics: StepMetrics) -> None:
        """Append one line."""
        append_record(self.path, asdict(metrics))


class NewestLine:
    """Follows metrics.jsonl as another process writes it: only bytes that are new are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0

    def take(self) -> StepMetrics | None:
        """Return the newest line that was not returned before; None where there is none."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < self._read:
            # A run that goes back writes the file anew.
            self._read = 0
        if size == self._read:
            return None
        with self.path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        lines = list(_lines(parse_records(whole.decode(errors="replace"))))
        return lines[-1] if lines else None


def read_metrics(path: Path) -> list[StepMetrics]:
    """Read metrics.jsonl; lines cut short by a kill or damaged since are left out."""
    return list(_lines(read_records(path)))


def _lines(records: Iterable[Mapping[str, JSON]]) -> Iterator[StepMetrics]:
    for record in records:
        with suppress(TypeError):
            yield StepMetrics(**record)
