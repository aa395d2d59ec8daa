"""What all benchmarks share: figures with goals, medians, child processes, and the two files that a result becomes."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from trainer_core.hardware.detect import detect_machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "numpy", "pillow", "pydantic")
_CHILD_SECONDS = 1800


@dataclass(frozen=True)
class Goal:
    """What a figure should reach."""

    limit: float
    better: Literal["at least", "at most"]

    def met(self, value: float) -> bool:
        """Whether `value` reaches the goal; no rounding in its favour."""
        return value >= self.limit if self.better == "at least" else value <= self.limit

    def verdict(self, value: float) -> str:
        """Passed or missed, and by how many percent of the limit."""
        by = f"{abs(value - self.limit) / self.limit:.1%}" if self.limit else f"{value - self.limit:g}"
        return f"{'passed' if self.met(value) else 'MISSED'} by {by}"


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    unit: str = ""
    goal: Goal | None = None
    spread: tuple[float, float] | None = None
    """Quartiles over the rounds, where there were several."""
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        row: dict[str, Any] = {"name": self.name, "value": self.value, "unit": self.unit}
        if self.spread:
            row["quartiles"] = list(self.spread)
        if self.goal:
            row |= {"goal": f"{self.goal.better} {self.goal.limit:g}", "met": self.goal.met(self.value)}
            row["verdict"] = self.goal.verdict(self.value)
        if self.note:
            row["note"] = self.note
        return row

    def cells(self) -> tuple[str, str, str, str]:
        """The row of a table: name, value with unit and quartiles, verdict, note."""
        spread = f" ({_short(self.spread[0])} .. {_short(self.spread[1])})" if self.spread else ""
        goal = f"{self.goal.verdict(self.value)} ({self.goal.better} {self.goal.limit:g})" if self.goal else ""
        return self.name, f"{_short(self.value)} {self.unit}".rstrip() + spread, goal, self.note


@dataclass(frozen=True)
class Result:
    """What a benchmark found, with everything needed to run it again."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    config: Mapping[str, Any]
    """Sizes, settings and rounds in force."""
    notes: tuple[str, ...] = ()


def from_rounds(name: str, values: Sequence[float], unit: str = "", goal: Goal | None = None, note: str = "") -> Figure:
    """Return the median of some rounds with its quartiles."""
    quarters = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]]
    return Figure(name, statistics.median(values), unit, goal, (quarters[0], quarters[-1]), note)


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return the ratio of each round; a ratio within a round outlives the drift between rounds."""
    return [one / other for one, other in zip(above, below, strict=True)]


def in_child(function: str, arguments: Mapping[str, Any], env: Mapping[str, str] | None = None) -> Any:
    """Call `module:function(**arguments)` in a fresh process and return its JSON answer.

    Raises:
        RuntimeError: the process failed; its last lines are in the message.
    """
    command = [sys.executable, "-m", "benchmarks._child", function, json.dumps(dict(arguments))]
    done = subprocess.run(
        command, cwd=ROOT, env={**child_env(), **(env or {})}, capture_output=True, text=True, timeout=_CHILD_SECONDS
    )
    if done.returncode != 0:
        raise RuntimeError(f"{function} failed:\n" + "\n".join(done.stderr.splitlines()[-20:]))
    return json.loads(done.stdout.splitlines()[-1])


def child_env() -> dict[str, str]:
    """Return this environment with the checkout importable, nothing fetched, and no home of another project."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LORA_ASSETS_")}
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**kept, **offline, "PYTHONPATH": str(ROOT)}


@cache
def machine_class() -> str:
    """Return what kind of machine this is, as a word for file names: `2core_amx_bf16`, `nvidia_h100` ..."""
    machine = detect_machine()
    if machine.gpu_name:
        return re.sub(r"[^a-z0-9]+", "_", machine.gpu_name.lower()).strip("_")
    bf16 = next((flag for flag in ("amx_bf16", "avx512_bf16") if flag in machine.cpu_flags), "fp32")
    return f"{machine.cores}core_{bf16}"


def versions() -> dict[str, str]:
    """Return the versions that figures depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def commit() -> str:
    """Return the commit measured, with `+changes` where files differ from it."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD").strip()
        return head + ("+changes" if _git("status", "--porcelain", "-uno").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def as_record(result: Result, command: str) -> dict[str, Any]:
    """Return everything about a result: command, configuration, versions, commit, figures."""
    machine = detect_machine()
    return {
        "benchmark": result.name,
        "title": result.title,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": command,
        "commit": commit(),
        "machine": {
            "class": machine_class(),
            "gpu": machine.gpu_name,
            "cores": machine.cores,
            "load_average": round(os.getloadavg()[0], 1),
        },
        "versions": versions(),
        "config": dict(result.config),
        "figures": [figure.as_dict() for figure in result.figures],
        "notes": list(result.notes),
    }


def write_record(result: Result, command: str) -> Path:
    """Write `results/NAME_MACHINE_YYYYMM.json` and the same as Markdown; return the Markdown's path."""
    record = as_record(result, command)
    RESULTS.mkdir(exist_ok=True)
    stem = f"{result.name}_{machine_class()}_{datetime.now(UTC):%Y%m}"
    (RESULTS / f"{stem}.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    path = RESULTS / f"{stem}.md"
    path.write_text(_markdown(result, record))
    return path


def _markdown(result: Result, record: Mapping[str, Any]) -> str:
    machine = record["machine"]
    place = f"{machine['class']}, {machine['gpu'] or 'no GPU'}, load {machine['load_average']} while measuring"
    lines = [f"# {result.title}", "", "| figure | value (quartiles) | goal | note |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(figure.cells()) + " |" for figure in result.figures]
    lines += ["", *(f"- {note}" for note in result.notes)] if result.notes else []
    lines += ["", f"- Command: `{record['command']}`", f"- Commit: {record['commit']}; date: {record['date']} UTC"]
    lines += [f"- Machine: {place}"]
    lines += ["- Versions: " + ", ".join(f"{name} {number}" for name, number in record["versions"].items())]
    lines += ["", "Configuration:", "", "```json", json.dumps(record["config"], indent=2, sort_keys=True), "```", ""]
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout
