"""Where the time of a step goes, without waiting for the device within a step."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

import torch

PHASES: tuple[str, ...] = ("data", "forward", "backward", "optimizer", "evaluate", "save")
_ON_DEVICE = frozenset(["forward", "backward", "optimizer"])
"""Phases whose work a GPU does after the call returned: events on its stream time them."""


class PhaseClock:
    """Adds up the time of each phase until it is read."""

    def __init__(self, device: torch.device) -> None:
        self._events = device.type == "cuda"
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Time what the block does; on a GPU what it enqueues."""
        if self._events and name in _ON_DEVICE:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            try:
                yield
            finally:
                end.record()
                self._pending.append((name, start, end))
            return
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - began

    def take(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call, and begin anew. On a GPU this waits for the step."""
        if self._pending:
            self._pending[-1][2].synchronize()
        for name, start, end in self._pending:
            self._seconds[name] += start.elapsed_time(end) / 1000
        taken, self._seconds, self._pending = self._seconds, dict.fromkeys(PHASES, 0.0), []
        return taken
