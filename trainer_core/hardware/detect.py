"""Detect the GPU, the CPU and the memory of this machine, without importing torch: a no-op must stay fast."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from pathlib import Path

from trainer_core.errors import ConfigError
from trainer_core.hardware.profiles import PROFILES, HardwareProfile, Machine
from trainer_core.types import Finding

log = logging.getLogger(__name__)

_FLAG_LINES = frozenset(["flags", "Features"])
_QUERY = ("nvidia-smi", "--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits")


def detect_machine() -> Machine:
    """Return the GPU (asked of `nvidia-smi`), the CPU's instruction sets, and the memory that this process may use."""
    name, capability, memory = _first_gpu()
    return Machine(
        gpu_name=name,
        compute_capability=capability,
        gpu_memory_mib=memory,
        cpu_flags=_cpu_flags(Path("/proc/cpuinfo")),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_mib=_memory_mib(),
    )


def select_profile(name: str, machine: Machine) -> HardwareProfile:
    """Return the row called `name`, or for `auto` the first that matches the machine.

    Raises:
        ConfigError: there is no such row.
    """
    if name == "auto":
        return next(profile for profile in PROFILES if profile.matches(machine))
    for profile in PROFILES:
        if profile.name == name:
            return profile
    known = ", ".join(profile.name for profile in PROFILES)
    raise ConfigError(
        [Finding("error", "hardware.profile", f"{name!r} is not a profile.", f"Set it to auto or one of: {known}.")]
    )


def _first_gpu() -> tuple[str | None, tuple[int, int] | None, int | None]:
    if shutil.which(_QUERY[0]) is None:
        return None, None, None
    try:
        answer = subprocess.run(_QUERY, capture_output=True, text=True, timeout=10, check=True).stdout
        name, capability, memory = (part.strip() for part in answer.splitlines()[0].split(","))
        major, minor = (int(part) for part in capability.split("."))
        # Unified-memory machines report "[N/A]" for the GPU's own memory.
        return name, (major, minor), int(memory) if memory.isdigit() else None
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        log.warning("nvidia-smi is installed but gave no usable answer (%s): no GPU is used", error)
        return None, None, None


def parse_cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Return the instruction sets that every core has, by Linux' own names.

    Args:
        cpuinfo: text of `/proc/cpuinfo`; the line of a core is called `flags` on x86-64 and `Features` on aarch64.
    """
    cores = [
        frozenset(values.split())
        for name, _, values in (line.partition(":") for line in cpuinfo.splitlines())
        if name.strip() in _FLAG_LINES
    ]
    return frozenset.intersection(*cores) if cores else frozenset()


def _cpu_flags(cpuinfo: Path) -> frozenset[str]:
    try:
        return parse_cpu_flags(cpuinfo.read_text(errors="replace"))
    except OSError:
        return frozenset()


def _memory_mib() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        limit = "max"
    return min(total, int(limit) if limit.isdigit() else total) // 2**20
