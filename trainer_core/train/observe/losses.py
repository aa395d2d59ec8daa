"""Losses that stay on the device until they are read, and the rates of steps."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor


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
