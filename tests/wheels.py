"""Print the table of compiled packages of docs/install.md: `.venv/bin/python -m tests.wheels`.

Asks the configured package index, through pip, for the wheels of the versions in constraints.txt. Packages written in
Python alone fit every machine and are left out.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
GLIBC = ("17", "24", "26", "27", "28", "31", "34", "35", "39")
"""Minor versions of glibc 2 in the names of wheels."""


def main() -> None:
    """Print one row a compiled package."""
    pinned = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line)
    print("| Package | Version | x86-64 | aarch64 |\n|---|---|---|---|")
    for name in sorted(set(compiled()) & pinned.keys()):
        found = ("yes" if has_wheel(f"{name}=={pinned[name]}", machine) else "no" for machine in ("x86_64", "aarch64"))
        print(f"| {name} | {pinned[name]} | {' | '.join(found)} |", flush=True)


def compiled() -> Iterator[str]:
    """Yield the installed packages whose wheel is of one kind of machine."""
    for distribution in distributions():
        if "Root-Is-Purelib: false" in (distribution.read_text("WHEEL") or ""):
            yield normal(distribution)


def normal(distribution: Distribution) -> str:
    """Return the name as constraints.txt has it."""
    return re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()


def has_wheel(requirement: str, machine: str) -> bool:
    """Say whether the index has a wheel for Python 3.11 on Linux and glibc 2.39 or older."""
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in GLIBC] + [f"manylinux2014_{machine}"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
        command += ["--only-binary=:all:", "--python-version", "3.11", "--target", folder]
        command += [part for platform in platforms for part in ("--platform", platform)]
        return subprocess.run([*command, requirement], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    main()
