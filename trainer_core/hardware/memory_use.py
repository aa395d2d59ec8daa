"""Peak memory of an interval: on the GPU as torch's allocator counts it, else resident memory of this process."""

from __future__ import annotations

import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trainer_core.lazy import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CLEAR_PEAK = "5"
"""What resets the kernel's count of a process' own peak. Source: proc_pid_clear_refs(5)."""


@dataclass(frozen=True)
class PeakMemory:
    """In MiB; `reserved` is what torch's allocator took of the GPU, and the same as `allocated` on a CPU."""

    allocated: float = 0.0
    reserved: float = 0.0

    def with_(self, other: PeakMemory) -> PeakMemory:
        """Return the peak of both intervals."""
        return PeakMemory(max(self.allocated, other.allocated), max(self.reserved, other.reserved))


def take_peak() -> PeakMemory:
    """Return the peak since the last call, or since the process began, and begin anew."""
    peak = _peak()
    if _uses_gpu():
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):
            _CLEAR.write_text(_CLEAR_PEAK)
    return peak


def _peak() -> PeakMemory:
    if _uses_gpu():
        return PeakMemory(torch.cuda.max_memory_allocated() / 2**20, torch.cuda.max_memory_reserved() / 2**20)
    resident = _resident_peak()
    return PeakMemory(resident, resident)


def _resident_peak() -> float:
    with suppress(OSError, StopIteration, ValueError):
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _uses_gpu() -> bool:
    return torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0
