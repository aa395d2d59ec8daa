"""A command that has nothing to do: how long it takes over many pictures, beyond starting Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._common import ROOT, Figure, Goal, Result, child_env, from_rounds
from benchmarks._projects import write_pictures, write_project
from tests.tiny import build

GOAL = Goal(1.5, "at most")
HEAVY = ("torch", "diffusers", "transformers", "pandas", "pyarrow", "numpy", "PIL", "dagster")
"""Libraries that a command without work must not import."""
SETTINGS: dict[str, Any] = {
    "bucket": {"resolution": 32, "step": 8, "min_side": 32, "max_side": 64},
    # Batches of the filling run only: they are neutral, so the measured run sees the same keys.
    "latents": {"precision": "fp32", "batch_size": 32},
    "text": {"precision": "fp32", "batch_size": 64},
    "adapter": {"rank": 2, "alpha": 2},
    "train": {"steps": 1, "precision": "fp32", "checkpoint_every": 0},
    "sample": {"prompts": ["a picture"], "steps": 1},
}
_ENTRY = "import sys; from trainer_core.cli.main import main; sys.exit(main())"


def run(quick: bool) -> Result:
    """Fill a project once, then time the command that finds nothing to do, in turn with `python -c pass`."""
    pictures, rounds = (1_000, 3) if quick else (10_000, 9)
    with tempfile.TemporaryDirectory() as folder:
        project = prepare_project(Path(folder), pictures)
        command = [sys.executable, "-c", _ENTRY, "train", str(project), "--json"]
        filling = _timed(command)
        _refuse_work(command)
        imported = _heavy_imports(command)
        bare, whole = [], []
        for _ in range(rounds):
            bare.append(_timed([sys.executable, "-c", "pass"]))
            whole.append(_timed(command))
    wall = [one[0] - other[0] for one, other in zip(whole, bare, strict=True)]
    cpu = [one[1] - other[1] for one, other in zip(whole, bare, strict=True)]
    return Result(
        "noop",
        f"`lora-assets train CONFIG --json` with nothing to do, {pictures:,} pictures",
        (
            from_rounds("whole process beyond interpreter start", wall, "s", GOAL, f"at {pictures:,} pictures"),
            from_rounds("the same in CPU time", cpu, "s", note="less moved by other work on these cores"),
            from_rounds("interpreter start (python -c pass)", [one[0] for one in bare], "s"),
            Figure("heavy libraries imported", len(imported), "", Goal(0, "at most"), note=", ".join(imported)),
            Figure("first run, which filled the caches", filling[0], "s"),
        ),
        {"pictures": pictures, "rounds": rounds, "settings": SETTINGS, "load_average": os.getloadavg()[0]},
    )


def prepare_project(folder: Path, pictures: int) -> Path:
    """Write a project of tiny parts with many pictures; return its path."""
    build("sd15", folder / "model")
    write_pictures(folder / "data", pictures, 32)
    # Ten pictures are held out: measuring a thousand would only lengthen the filling run.
    dataset = {"path": "data", "held_out": 10 / pictures}
    return write_project(folder, {"datasets": [dataset], **SETTINGS})


def _timed(command: list[str]) -> tuple[float, float]:
    """Return wall and CPU seconds of a process that must succeed."""
    before, began = os.times(), time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=child_env(), check=True, capture_output=True)
    wall, after = time.perf_counter() - began, os.times()
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return wall, used


def _refuse_work(command: list[str]) -> None:
    told = subprocess.run(command, cwd=ROOT, env=child_env(), check=True, capture_output=True, text=True).stdout
    worked = [stage["name"] for stage in json.loads(told)["stages"] if stage["action"] != "reused"]
    assert not worked, f"the second run computed {worked}: this measures nothing"


def _heavy_imports(command: list[str]) -> list[str]:
    traced = [command[0], "-X", "importtime", *command[1:]]
    lines = subprocess.run(traced, cwd=ROOT, env=child_env(), check=True, capture_output=True, text=True).stderr
    names = {line.rpartition("|")[2].strip() for line in lines.splitlines() if line.startswith("import time:")}
    return [name for name in HEAVY if name in names]
