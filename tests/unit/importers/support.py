"""Runs imports of the example configs in a folder of their own, so that no path of this machine gets into a result."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

from trainer_core.config.load import load_project
from trainer_core.config.project import Project
from trainer_core.importers.core.report import ImportReport
from trainer_core.importers.run import Request, run_import

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE / "examples"
_PARTS = ("dataset.toml", "_eval.toml", "backend.json", "concepts.json", "lycoris_config.json")
MAIN = sorted(
    path.relative_to(EXAMPLES).as_posix()
    for path in EXAMPLES.glob("*/*")
    if path.is_file() and not path.name.endswith(_PARTS)
)
"""Examples that are imported; the others are files that they name."""


@contextlib.contextmanager
def example_folder(tmp_path: Path, tool: str) -> Generator[Path]:
    """Make a copy of a tool's examples the current folder."""
    work = tmp_path / "work"
    shutil.copytree(EXAMPLES / tool, work)
    with contextlib.chdir(work):
        yield work


def import_example(tmp_path: Path, name: str) -> ImportReport:
    """Import `tool/file`."""
    tool, _, file = name.partition("/")
    with example_folder(tmp_path, tool):
        return run_import(Request(Path(file)))


def import_text(tmp_path: Path, text: str, suffix: str = ".toml", **files: str) -> ImportReport:
    """Import a config given as text; `files` are others beside it, with `_` for the dot of the ending."""
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    config = work / f"config{suffix}"
    config.write_text(text, encoding="utf-8")
    for name, content in files.items():
        stem, _, ending = name.rpartition("_")
        (work / f"{stem}.{ending}").write_text(content, encoding="utf-8")
    with contextlib.chdir(work):
        return run_import(Request(config, Path("configs/out.yaml"), force=True))


def import_json(tmp_path: Path, data: Any, **files: str) -> ImportReport:
    """Import a config given as values."""
    return import_text(tmp_path, json.dumps(data), ".json", **files)


def project_of(tmp_path: Path, report: ImportReport) -> Project:
    """Load what was written."""
    return load_project(tmp_path / "work" / report.output)


def status(report: ImportReport, key: str) -> str:
    """What became of a key."""
    return next(entry.status for entry in report.entries if entry.key == key)


def note(report: ImportReport, key: str) -> str:
    """What was said of a key."""
    return next(entry.note for entry in report.entries if entry.key == key)
