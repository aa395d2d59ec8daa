"""How much memory the work may take: of this machine, of a profile's, or of a card of so many GiB. No torch here.

The total counts, never what is free at the moment: one recipe must not get two plans.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from trainer_core.errors import ConfigError
from trainer_core.hardware.profiles import PROFILES, HardwareProfile, Machine
from trainer_core.types import Finding

GIB = 2**30
Kind = Literal["gpu", "unified", "cpu"]
_GIB = re.compile(r"(\d+(?:\.\d+)?)\s*(?:GiB|gib|GB|gb|G|g)")


@dataclass(frozen=True)
class Budget:
    """Memory of a device, and what of it the work may take."""

    title: str
    kind: Kind
    """`unified`: GPU and CPU share the memory."""
    total: float
    """Bytes of the device."""
    usable: float
    """Bytes that the work may take, everything counted."""
    context: float
    """Bytes that the device's runtime takes before any tensor is made."""
    profile: str
    """Row of the profile table that the machine is."""

    @property
    def can_swap(self) -> bool:
        """Whether there is another memory to move something to."""
        return self.kind == "gpu"


@dataclass(frozen=True)
class _Kind:
    share: float
    """Of the total that may be taken: allocators leave gaps between blocks."""
    reserve: float
    """GiB that stay free for others."""
    context: float
    """GiB of the runtime: CUDA's context with its libraries, or a Python process with torch."""


_KINDS: Mapping[str, _Kind] = {
    "gpu": _Kind(share=0.96, reserve=0.1, context=0.5),
    # MemAvailable less room for the system and the file cache: the kernel kills, no error is raised.
    "unified": _Kind(share=0.9, reserve=8.0, context=1.0),
    "cpu": _Kind(share=0.9, reserve=0.5, context=0.5),
}
"""Figures of data sheets and of reports of others (0.3 to 0.6 GB a context), not measured here."""

_TOTALS: Mapping[str, tuple[Literal["gpu", "unified"], float]] = {
    "rtx4090": ("gpu", 23.99),
    "h100": ("gpu", 79.6),
    "dgx_spark": ("unified", 119.0),
}
"""Profile -> GiB that its driver shows."""


def budget_for(what: str) -> Budget:
    """Return the budget of a profile's machine, or of a GPU of `NGiB`.

    Raises:
        ConfigError: it is neither.
    """
    if what in _TOTALS:
        kind, gib = _TOTALS[what]
        title = next(profile.title for profile in PROFILES if profile.name == what)
        return device_budget(title, kind, gib * GIB, what)
    if size := _GIB.fullmatch(what):
        return device_budget(f"a GPU of {float(size[1]):g} GiB", "gpu", float(size[1]) * GIB, "cuda")
    known = ", ".join(_TOTALS)
    message = f"is {what!r}, which is neither a machine nor a size of memory."
    raise ConfigError([Finding("error", "--for", message, f"Give one of {known}, or a size such as 24GiB.")])


def budget_of(machine: Machine, profile: HardwareProfile, asked_gib: float = 0.0) -> Budget:
    """Return the budget of this machine.

    Args:
        machine: what was detected.
        profile: its row.
        asked_gib: `memory.budget_gib`; 0 for what the machine has.
    """
    if profile.device == "cpu":
        kind, mib, title = "cpu", machine.memory_mib, profile.title
    elif machine.gpu_memory_mib is None:
        kind, mib, title = "unified", machine.memory_mib, machine.gpu_name or profile.title
    else:
        kind, mib, title = "gpu", machine.gpu_memory_mib, machine.gpu_name or profile.title
    found = device_budget(title, kind, mib * 2**20, profile.name)  # type: ignore[arg-type]
    if not asked_gib:
        return found
    return Budget(title, found.kind, found.total, asked_gib * GIB, found.context, found.profile)


def device_budget(title: str, kind: Kind, total: float, profile: str = "cuda") -> Budget:
    """Return the budget of a device of `total` bytes, less what its kind leaves to others."""
    row = _KINDS[kind]
    return Budget(title, kind, total, total * row.share - row.reserve * GIB, row.context * GIB, profile)
