"""Detect the GPU, the CPU and the memory of this machine, without importing torch: a no-op must stay fast."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer_core.errors import ConfigError
from trainer_core.hardware.nvml import Driver, DriverTrouble, read_driver
from trainer_core.hardware.profiles import PROFILES, HardwareProfile, Machine
from trainer_core.types import Finding

_FLAG_LINES = frozenset(["flags", "Features"])


def detect_machine(environ: Mapping[str, str] = os.environ, library: Any = None) -> Machine:
    """Return the GPUs that this process may use, the CPU's instruction sets, and the memory that it may use.

    Args:
        environ: `CUDA_VISIBLE_DEVICES` counts.
        library: stands for the module `pynvml`.
    """
    driver, trouble = _driver(environ, library)
    first = driver.gpus[0] if driver is not None and driver.gpus else None
    return Machine(
        gpu_name=None if first is None else first.name,
        compute_capability=None if first is None else first.compute_capability,
        gpu_memory_mib=None if first is None else first.memory_mib,
        gpu_free_mib=None if first is None else first.free_mib,
        gpus=0 if driver is None else len(driver.gpus),
        gpu_uuid="" if first is None else first.uuid,
        driver=() if driver is None else driver.version,
        driver_trouble=trouble,
        cpu_flags=_cpu_flags(Path("/proc/cpuinfo")),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_mib=_memory_mib(),
    )


def select_profile(name: str, machine: Machine) -> HardwareProfile:
    """Return the row called `name`, or for `auto` the first that matches the machine.

    Raises:
        ConfigError: there is no such row; or for `auto`, there is a GPU's driver that gives no usable answer.
    """
    if name == "auto":
        if machine.driver_trouble:
            message = f"is auto, and there is an NVIDIA driver, but {machine.driver_trouble}"
            fix = "To train on the CPU all the same, set it to cpu_fp32."
            raise ConfigError([Finding("error", "hardware.profile", message, fix)])
        return next(profile for profile in PROFILES if profile.matches(machine))
    for profile in PROFILES:
        if profile.name == name:
            return profile
    known = ", ".join(profile.name for profile in PROFILES)
    raise ConfigError(
        [Finding("error", "hardware.profile", f"{name!r} is not a profile.", f"Set it to auto or one of: {known}.")]
    )


def _driver(environ: Mapping[str, str], library: Any) -> tuple[Driver | None, str]:
    try:
        return read_driver(environ, library), ""
    except DriverTrouble as error:
        return None, str(error)


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
