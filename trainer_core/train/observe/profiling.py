"""`train.profile`: a trace of some steps by torch's profiler, and a page with what cost most."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger(__name__)

TRACE, SUMMARY = "trace.json.gz", "summary.md"
_DEAREST = 10


@dataclass
class StepProfiler:
    """Records `steps` steps, the first of them number `first` (counted from 1), and writes into `folder`."""

    folder: Path
    first: int
    steps: int
    _profile: Any = field(default=None, repr=False)

    def before_step(self, step: int) -> None:
        """Begin to record, if this is the first.

        Args:
            step: optimizer steps that are finished.
        """
        if step + 1 == self.first:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profile = torch.profiler.profile(activities=activities, record_shapes=True)
            self._profile.__enter__()

    def after_step(self, step: int) -> None:
        """Write, if this was the last; `step` counts finished steps."""
        if self._profile is not None and step + 1 >= self.first + self.steps:
            self.close(step)

    def close(self, step: int) -> None:
        """Write what was recorded so far, if anything."""
        if self._profile is None:
            return
        profile, self._profile = self._profile, None
        profile.__exit__(None, None, None)
        self.folder.mkdir(parents=True, exist_ok=True)
        profile.export_chrome_trace(str(self.folder / TRACE))
        count = max(1, step - self.first + 1)
        (self.folder / SUMMARY).write_text(summary(profile.key_averages(), self.first, count))
        log.info("profile of %d steps: %s and %s", count, self.folder / TRACE, self.folder / SUMMARY)


def summary(averages: Any, first: int, steps: int) -> str:
    """Return a page in Markdown of the operators that took most time of their own.

    Args:
        averages: torch's `key_averages()`.
        first: number of the first recorded step, from 1.
        steps: recorded steps.
    """
    device = any(_device_time(event) for event in averages)
    own = _device_time if device else _cpu_time
    total = sum(own(event) for event in averages) or 1.0
    dearest = sorted(averages, key=own, reverse=True)[:_DEAREST]
    where = "GPU" if device else "CPU"
    rows = [
        f"| `{event.key}` | {event.count / steps:g} | {own(event) / steps / 1000:.3f} | {own(event) / total:.1%} |"
        for event in dearest
    ]
    head = [
        f"# Profile of steps {first} to {first + steps - 1}",
        "",
        f"{total / steps / 1000:.2f} ms of {where} time a step. Dearest operators, without what they call:",
        "",
        "| operator | calls a step | ms a step | share |",
        "|---|---:|---:|---:|",
    ]
    end = ["", f"`{TRACE}` opens in `chrome://tracing` and at Perfetto. Recording slows steps down.", ""]
    return "\n".join([*head, *rows, *end])


def _cpu_time(event: Any) -> float:
    return float(event.self_cpu_time_total)


def _device_time(event: Any) -> float:
    return float(getattr(event, "self_device_time_total", 0.0))
