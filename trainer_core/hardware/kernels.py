"""Which kernels a run computes with: attention, and compiled blocks. No torch."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trainer_core.hardware.profiles import Attention, HardwareProfile

log = logging.getLogger(__name__)


class KernelSettings(Protocol):
    """The settings of the group `hardware` that choose kernels."""

    @property
    def threads(self) -> int:
        """CPU threads of torch."""
        ...

    @property
    def attention(self) -> str:
        """`auto`, `native`, `cudnn` or `flash`."""
        ...

    @property
    def compile(self) -> str:
        """`auto`, `off` or `blocks`."""
        ...

    @property
    def tf32(self) -> str:
        """`auto`, `on` or `off`."""
        ...


ORDER: Mapping[str, tuple[str, ...]] = {
    "cudnn": ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"),
    "flash": ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH"),
}
"""Choice -> torch's kernels in the order in which they are tried. A kernel that cannot take a call, such as flash one
with a mask, leaves it to the next, and the last takes any."""


def chosen_attention(profile: HardwareProfile, asked: str) -> Attention:
    """Return the attention of a run; on CPUs that of the profile, whatever is asked for."""
    if profile.device == "cpu" or asked == "auto":
        return profile.attention
    return "sdpa" if asked == "native" else asked  # type: ignore[return-value]


def compiles(profile: HardwareProfile, asked: str, swaps: bool) -> bool:
    """Say whether blocks are compiled, and tell why not where it was asked for."""
    if asked == "off" or (asked == "auto" and not profile.compile):
        return False
    why = "blocks are swapped" if swaps else missing_for_compiling(profile.device)
    if why is not None:
        log.warning("hardware.compile: blocks are not compiled: %s", why)
    return why is None


def missing_for_compiling(device: str) -> str | None:
    """Return what `hardware.compile` lacks on this machine; None where nothing is missing."""
    if device == "cuda" and find_spec("triton") is None:
        return "the package triton is not installed"
    if not any(map(shutil.which, ("cc", "gcc", "clang", "cl"))):
        return "there is no C compiler"
    return None
