"""What a run tells while it goes: losses kept on the device until they are read, rates, and a JSONL file."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

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


class LossRecorder:
    """A ring on the device, so that recording a loss never waits for the GPU. Memory is bounded by its capacity."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        self._buffer = torch.zeros(capacity, dtype=torch.float32, device=device)
        self._numbers: list[int] = []

    def add(self, number: int, loss: Tensor) -> None:
        """Keep the loss (a scalar on the device) of micro-batch `number`."""
        self._buffer[len(self._numbers)] = loss.detach()
        self._numbers.append(number)

    @property
    def full(self) -> bool:
        """Whether `take` must be called before the next `add`."""
        return len(self._numbers) == len(self._buffer)

    def take(self) -> dict[int, float]:
        """Read and forget all recorded losses by micro-batch number. Waits for the device."""
        losses = self._buffer[: len(self._numbers)].tolist()
        numbers, self._numbers = self._numbers, []
        return dict(zip(numbers, losses, strict=True))


def first_bad(losses: dict[int, float]) -> int | None:
    """Return the first micro-batch whose loss is not finite."""
    return next((number for number, loss in losses.items() if not math.isfinite(loss)), None)


@dataclass
class Stopwatch:
    """Times steps and the share of them that went into waiting for data."""

    started: float = 0.0
    waited: float = 0.0
    steps: int = 0
    samples: int = 0

    def restart(self) -> None:
        """Begin a new interval."""
        self.started, self.waited, self.steps, self.samples = time.perf_counter(), 0.0, 0, 0

    def rates(self) -> tuple[float, float, float]:
        """Return (steps per second, samples per second, share waited) of the interval."""
        seconds = max(1e-9, time.perf_counter() - self.started)
        return self.steps / seconds, self.samples / seconds, min(1.0, self.waited / seconds)


class MetricsFile:
    """metrics.jsonl of a run: lines after the step that a run resumes from are dropped, so no step stands twice."""

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
