"""Find out what machine this is, without importing torch (a no-op must stay fast)."""

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

_QUERY = ("nvidia-smi", "--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits")


def detect_machine() -> Machine:
    """Look at the GPU (through the driver's own tool), the CPU's flags and the memory."""
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
        [Finding("error", "hardware.profile", f"{name!r} is not a profile.", f"Use auto or one of: {known}.")]
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
        log.warning("nvidia-smi is present but gave no answer (%s): going on without a GPU", error)
        return None, None, None


def _cpu_flags(cpuinfo: Path) -> frozenset[str]:
    try:
        with cpuinfo.open() as lines:
            flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        return frozenset()
    return frozenset(flags.partition(":")[2].split())


def _memory_mib() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        limit = "max"
    return min(total, int(limit) if limit.isdigit() else total) // 2**20
