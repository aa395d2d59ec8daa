"""Which build of PyTorch this machine runs: `make install` asks. Needs the standard library alone.

    python -m trainer_core.hardware.torch_build 2.13.0

prints the requirement for pip, and the folder of PyTorch's own index that has it where the usual index does not; on
stderr, why.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_VERSION_FILE = Path("/proc/driver/nvidia/version")
_QUERY = ("nvidia-smi", "--query-gpu=driver_version,compute_cap", "--format=csv,noheader")
_CUDA_13_DRIVER = (580,)
_CUDA_12_DRIVER = (525, 60, 13)
"""Oldest Linux drivers. Source: NVIDIA's CUDA Toolkit release notes, tables 2 and 3."""
_OLDEST_OF_13 = (7, 5)
_NEWEST_OF_126 = (9, 0)
"""Compute capabilities: CUDA 13 begins with 7.5; PyTorch's build for CUDA 12.6 has 5.0 to 9.0, for 12.9 7.5 to 12.1."""


@dataclass(frozen=True)
class Build:
    """A build of PyTorch."""

    local: str
    """Ending of its version, `cu126`, which is also its folder of PyTorch's index; empty for the usual index's."""
    reason: str

    def requirement(self, version: str) -> str:
        """Return what pip is asked for."""
        return f"torch=={version}+{self.local}" if self.local else f"torch=={version}"


def choose_build(driver: tuple[int, ...] | None, capability: tuple[int, int] | None) -> Build:
    """Choose by the driver and the oldest GPU.

    Args:
        driver: version of the NVIDIA driver; None where there is none.
        capability: compute capability of the oldest GPU; None where it is not known.
    """
    if driver is None:
        return Build("cpu", "there is no NVIDIA driver: the build without CUDA, which is much smaller")
    shown = ".".join(map(str, driver))
    if capability is not None and capability < _OLDEST_OF_13:
        old = ".".join(map(str, capability))
        return Build(
            "cu126", f"a GPU has compute capability {old}, and CUDA 13 begins with 7.5: the build for CUDA 12.6"
        )
    if driver >= _CUDA_13_DRIVER:
        return Build("", f"the driver is {shown}, at least 580: the usual build, for CUDA 13")
    if driver < _CUDA_12_DRIVER:
        return Build(
            "cpu", f"the driver is {shown}, too old for CUDA 12 (525.60.13): the build without CUDA; update it"
        )
    newer = capability is not None and capability > _NEWEST_OF_126
    local, cuda = ("cu129", "12.9") if newer else ("cu126", "12.6")
    return Build(local, f"the driver is {shown}, and CUDA 13 needs 580: the build for CUDA {cuda}")


def parse_driver(text: str) -> tuple[int, ...] | None:
    """Return the driver's version from `/proc/driver/nvidia/version`."""
    found = re.search(r"(?:Kernel Module|Module for \S+)\s+(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else None


def parse_query(text: str) -> tuple[tuple[int, ...] | None, tuple[int, int] | None]:
    """Return the driver and the lowest compute capability from nvidia-smi's lines `driver, capability`."""
    rows = re.findall(r"^(\d+(?:\.\d+)+), (\d+)\.(\d+)$", text, re.MULTILINE)
    if not rows:
        return None, None
    driver = tuple(int(part) for part in rows[0][0].split("."))
    return driver, min((int(major), int(minor)) for _, major, minor in rows)


def _detect() -> tuple[tuple[int, ...] | None, tuple[int, int] | None]:
    answer = ""
    if shutil.which(_QUERY[0]):
        try:
            answer = subprocess.run(_QUERY, capture_output=True, text=True, timeout=30, check=False).stdout
        except (OSError, subprocess.SubprocessError) as error:
            print(f"nvidia-smi gave no answer: {error}", file=sys.stderr)
    driver, capability = parse_query(answer)
    if driver is None and _VERSION_FILE.exists():
        driver = parse_driver(_VERSION_FILE.read_text())
    return driver, capability


def main(version: str) -> None:
    """Print the requirement and the folder of the index."""
    build = choose_build(*_detect())
    print(f"PyTorch: {build.reason}.", file=sys.stderr)
    print(build.requirement(version), build.local)


if __name__ == "__main__":
    main(sys.argv[1])
