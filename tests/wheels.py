"""Print the table of compiled packages of docs/install.md: `.venv/bin/python -m tests.wheels`.

Asks the configured package index, through pip, for the wheels of the versions in constraints.txt; nothing is installed.
Packages written in Python alone fit every machine and are left out.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
MACHINES = ("x86_64", "aarch64")
GLIBC = ("17", "24", "26", "27", "28", "31", "34")
"""Minor versions of glibc 2 in the names of wheels."""
MISSING = re.compile(r"No matching distribution found for (\S+)")


def main() -> None:
    """Print one row a compiled package."""
    pinned = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line)
    names = sorted(set(compiled()) & pinned.keys())
    wheels = {machine: platforms({name: pinned[name] for name in names}, machine) for machine in MACHINES}
    print("| Package | Version | x86-64 | aarch64 |\n|---|---|---|---|")
    for name in names:
        print(f"| {name} | {pinned[name]} | {' | '.join(wheels[each].get(name, 'none') for each in MACHINES)} |")


def compiled() -> Iterator[str]:
    """Yield the installed packages whose wheel fits one kind of machine only, as constraints.txt names them."""
    for distribution in distributions():
        if "Root-Is-Purelib: false" in (distribution.read_text("WHEEL") or ""):
            yield normal(distribution.metadata["Name"])


def normal(name: str) -> str:
    """Return a package's name as constraints.txt has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def platforms(versions: dict[str, str], machine: str) -> dict[str, str]:
    """Return package -> the oldest system that its wheel for Python 3.11 fits; without those that have none."""
    wanted = [f"{name}=={version}" for name, version in versions.items()]
    while True:
        done = subprocess.run([*dry_run(machine), *wanted], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return {normal(one["metadata"]["name"]): tag(one) for one in json.loads(done.stdout)["install"]}
        missing = MISSING.search(done.stderr)
        if missing is None or missing[1] not in wanted:
            sys.exit(done.stderr)
        wanted.remove(missing[1])


def dry_run(machine: str) -> list[str]:
    """Return pip's command that says what it would install on a machine."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in GLIBC] + [f"manylinux2014_{machine}"]
    target = Path(tempfile.gettempdir()) / "wheels-of-another-machine"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", "3.11", "--target", str(target), "--report", "-"]
    return [*command, *(part for each in tags for part in ("--platform", each))]


def tag(installed: dict[str, Any]) -> str:
    """Return the shortest name of a system in the name of a wheel: "manylinux_2_17", or "any"."""
    wheel = str(installed["download_info"]["url"]).rpartition("/")[2].removesuffix(".whl")
    names = (re.sub(r"_(x86_64|aarch64)$", "", each) for each in wheel.rpartition("-")[2].split("."))
    return min(names, key=lambda name: (len(name), name))


if __name__ == "__main__":
    main()
