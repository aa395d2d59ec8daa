"""`doctor`: can this machine train, and is the store undamaged?"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer_core.cli.options import Debug, Home, Json, Verbose, find_home
from trainer_core.cli.terminal import show_findings, terminal
from trainer_core.data.names import pluralize
from trainer_core.families.storage.gds import gds_finding
from trainer_core.hardware.capabilities import (
    FEATURES,
    OLDEST_DRIVERS,
    Platform,
    build_problem,
    capabilities,
    shown,
)
from trainer_core.hardware.detect import detect_machine, select_profile
from trainer_core.store import Store, verify_store
from trainer_core.types import Finding, Level

if TYPE_CHECKING:
    from trainer_core.hardware.profiles import Machine

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "pydantic",
    "pandas",
    "pyarrow",
    "pillow",
    "matplotlib",
    "filelock",
    "ruamel.yaml",
    "typer",
    "rich",
    "dagster",
)
OLDEST_PYTHON = (3, 11)
_LITTLE_MEMORY_MIB, _LITTLE_DISK_GIB, _NO_DISK_GIB = 8 * 1024, 20, 1

EXAMPLES = (
    ("lora-assets doctor", "can this machine train?"),
    ("lora-assets doctor --gds", "can files be read past the CPU, and is it quicker?"),
)
"""Shown under `--help`."""


def doctor(
    home: Home = None,
    gds: Annotated[
        bool, typer.Option("--gds", help="Also try GPUDirect Storage: a file of 256 MiB is written to --home and read.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
    verbose: Verbose = 0,
) -> None:
    """Say whether this machine can train and the store is undamaged.

    Looks at Python, packages, GPU, driver, memory, disk and every byte of the store. Exit code 1 when something has to
    be mended.
    """
    with terminal(as_json, debug, verbose) as out:
        findings = list(examine(find_home(home)))
        if gds:
            findings.append(gds_finding(find_home(home)))
        if as_json:
            out.emit({"findings": [finding.as_dict() for finding in findings]})
        else:
            show_findings(out.console, findings)
        if any(finding.level == "error" for finding in findings):
            raise typer.Exit(1)


def examine(home: Path) -> Iterator[Finding]:
    """Check everything, the quickest checks first."""
    machine = detect_machine()
    yield from _python()
    yield from _packages()
    cuda = _torch_cuda()
    yield torch_finding(cuda, shown(machine.driver) or None, machine.gpu_name)
    yield from _machine(machine)
    yield from gpu_findings(machine, cuda, _distributions())
    yield from _disk(home)
    yield from _dagster_home(os.environ.get("DAGSTER_HOME", ""))
    yield from _store(home / "store")


def torch_finding(cuda: str | None, driver: str | None, gpu: str | None) -> Finding:
    """Say whether this build of torch can use this machine's GPU.

    Args:
        cuda: CUDA version that torch was built for; None for a build without CUDA.
        driver: version of the NVIDIA driver; None without one.
        gpu: name of the GPU; None without one.
    """
    if gpu is None and driver is None:
        built = f"built for CUDA {cuda}" if cuda else "built without CUDA"
        return Finding("info", "torch", f"is {built}; there is no NVIDIA GPU, so the CPU is used.", "")
    if cuda is None:
        message = f"is built without CUDA, but there is a GPU ({gpu or 'unknown'})."
        return Finding("error", "torch", message, "Install torch with CUDA: remove .venv and run `make install`.")
    needed = OLDEST_DRIVERS.get(int(cuda.partition(".")[0]))
    if driver and needed and parts(driver) < needed:
        message = f"is built for CUDA {cuda}, which needs NVIDIA driver >= {shown(needed)}; this one is {driver}."
        return Finding("error", "torch", message, "Update the driver, or install torch for an older CUDA.")
    return Finding("info", "torch", f"is built for CUDA {cuda}; the driver is {driver or 'unknown'}.", "")


def parts(number: str) -> tuple[int, ...]:
    """Split a version into numbers, which can be compared: 580.65.06 is newer than 580."""
    return tuple(int(part) for part in re.findall(r"\d+", number))


def _python() -> Iterator[Finding]:
    own = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        yield Finding("error", "python", f"is {own}, wanted {wanted} or newer.", "Run `make PYTHON=/path/to/python`.")
    else:
        yield Finding("info", "python", f"is {own} ({sys.executable}).", "")


def _packages() -> Iterator[Finding]:
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            yield Finding("error", f"packages.{name}", "is not installed.", "Run `make install`.")
    yield Finding("info", "packages", ", ".join(f"{name} {number}" for name, number in found.items()), "")


def _torch_cuda() -> str | None:
    """Return the CUDA version that torch was built for, from its version file: importing torch takes seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text()
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=]*=\s*'([\d.]+)'", text, re.MULTILINE)
    return found[1] if found else None


def _distributions() -> frozenset[str]:
    """Return those packages of the capability table that are installed."""
    wanted = {feature.package for feature in FEATURES if feature.package}
    return frozenset(name for name in wanted if _installed(name))


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def gpu_findings(machine: Machine, cuda: str | None, packages: frozenset[str]) -> Iterator[Finding]:
    """Say what of the capability table the GPU can do, and why not the rest.

    Args:
        machine: what was detected.
        cuda: CUDA version that torch was built for; None for a build without CUDA.
        packages: installed distributions.
    """
    if machine.driver_trouble:
        fix = "Until then, `hardware.profile: cpu_fp32` trains on the CPU."
        yield Finding("error", "gpu", f"there is an NVIDIA driver, but {machine.driver_trouble}", fix)
    if machine.compute_capability is None:
        return
    platform = Platform(machine.compute_capability, machine.driver, parts(cuda or ""), packages)
    if cuda and (problem := build_problem(platform)):
        fix = "Remove .venv and run `make install`, which chooses a build that fits."
        yield Finding("error", "torch", f"cannot use this GPU: {problem}.", fix)
    for answer in capabilities(platform):
        yield Finding("info", f"gpu.{answer.feature.name}", f"{answer}.", "")


def _machine(machine: Machine) -> Iterator[Finding]:
    if machine.gpu_name is not None:
        memory = f"{machine.gpu_memory_mib} MiB" if machine.gpu_memory_mib else "shares the computer's memory"
        capability = shown(machine.compute_capability or ())
        others = f"; {machine.gpus} GPUs can be used" if machine.gpus > 1 else ""
        message = f"is {machine.gpu_name}, {memory}, compute capability {capability}{others}."
        yield Finding("info", "gpu", message, "")
    profile = select_profile("auto", replace(machine, driver_trouble=""))
    message = (
        f"{profile.name} ({profile.title}): trains in {profile.train_precision}, encodes in {profile.encode_precision} "
        f"{profile.encode_batch_size} at once, {profile.attention} attention, {profile.decode_threads} decode threads"
        f"{f'; {profile.note}' if profile.note else ''}."
    )
    yield Finding("info", "hardware.profile", message, "")
    level: Level = "warning" if machine.memory_mib < _LITTLE_MEMORY_MIB else "info"
    fix = (
        "This is enough for tiny models only: SD1.5 needs about 8 GiB, SDXL 16, FLUX.1 40."
        if level == "warning"
        else ""
    )
    yield Finding(level, "memory", f"{machine.memory_mib} MiB, {pluralize(machine.cores, 'core')}.", fix)


def _disk(home: Path) -> Iterator[Finding]:
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 2**30
    level: Level = "error" if free < _NO_DISK_GIB else "warning" if free < _LITTLE_DISK_GIB else "info"
    fix = (
        ""
        if level == "info"
        else "Delete files, run `lora-assets gc`, or set LORA_ASSETS_HOME to a folder on another disk."
    )
    yield Finding(level, "disk", f"{free:.1f} GiB free for {home}.", fix)


def _dagster_home(chosen: str) -> Iterator[Finding]:
    fix = "Run `. ./env.sh` in the checkout before `dagster`."
    if not chosen:
        yield Finding("info", "DAGSTER_HOME", "is not set; only `dagster` needs it.", fix)
    elif not Path(chosen).is_absolute() or not Path(chosen).is_dir():
        yield Finding("warning", "DAGSTER_HOME", f"is {chosen}, which is not an absolute path of a folder.", fix)
    else:
        yield Finding("info", "DAGSTER_HOME", f"is {chosen}.", "")


def _store(root: Path) -> Iterator[Finding]:
    if not (root / "VERSION").exists():
        yield Finding("info", "store", f"there is no store at {root} yet.", "")
        return
    with Store.open(root) as store:
        problems = verify_store(store)
    for problem in problems:
        yield Finding("error", "store", f"{problem.path}: {problem.message}.", problem.fix)
    if not problems:
        yield Finding("info", "store", f"{root}: every byte is as it was published.", "")
