"""metrics.jsonl of a run: one line of means every `logging.every` steps. No torch here."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trainer_core.types import JSON

_CHECKSUM = "crc32"


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
        temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
        temporary.write_text("".join(map(_sealed, kept)))
        temporary.replace(path)

    def write(self, metrics: StepMetrics) -> None:
        """Append one line."""
        with self.path.open("a") as file:
            file.write(_sealed(metrics))


def read_metrics(path: Path) -> list[StepMetrics]:
    """Read metrics.jsonl; lines that a kill cut short or that were damaged since are left out."""
    lines: list[StepMetrics] = []
    if not path.exists():
        return lines
    for line in path.read_text(errors="replace").splitlines():
        try:
            values = json.loads(line)
            checksum = values.pop(_CHECKSUM)
            metrics = StepMetrics(**values)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        if checksum == _crc(values):
            lines.append(metrics)
    return lines


def _sealed(metrics: StepMetrics) -> str:
    values = asdict(metrics)
    return json.dumps(values | {_CHECKSUM: _crc(values)}) + "\n"


def _crc(values: Mapping[str, JSON]) -> int:
    # Over the values of the line: those without a time, which older versions wrote, stay readable.
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())
