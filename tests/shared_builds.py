"""Folders that all tests of a session share, whichever worker runs them.

A tiny base model or a finished project is built once, by the first test that asks for it; other workers wait for it
under a lock. Tests read these folders, and copy a store before they open it: its index has files beside it while it is
open, which a worker that copies would miss. `changed` lists what somebody wrote into all the same.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

VOLATILE = ("index.sqlite", ".lock", "locks", ".tmp-")
"""Parts of names of what merely opening a store may write."""


@dataclass(frozen=True)
class SharedBuilds:
    """Built folders below `root`, one a name."""

    root: Path

    @classmethod
    def of(cls, config: pytest.Config, factory: pytest.TempPathFactory) -> SharedBuilds:
        """Return the builds of this session, the same for each worker."""
        base = factory.getbasetemp()
        # A worker of pytest-xdist has a temporary folder of its own inside the session's.
        root = (base.parent if hasattr(config, "workerinput") else base) / "shared"
        root.mkdir(exist_ok=True)
        return cls(root)

    def folder(self, name: str, build: Callable[[Path], object]) -> Path:
        """Return the folder `name`; the first to ask builds it with `build(folder)`, which may find it absent.

        The name stands for the content: two builds that differ must have two names.
        """
        folder, done = self.root / name, self.root / f"{name}.json"
        with FileLock(self.root / f"{name}.lock"):
            if not done.exists():
                # What a failed build left is no build.
                shutil.rmtree(folder, ignore_errors=True)
                build(folder)
                done.write_text(json.dumps(dict(_stamps(folder))))
        return folder

    def changed(self) -> list[str]:
        """Return the files of finished builds that were written, added or removed since."""
        changes: list[str] = []
        for done in sorted(self.root.glob("*.json")):
            folder = done.with_suffix("")
            before: dict[str, list[int]] = json.loads(done.read_text())
            now = dict(_stamps(folder))
            names = sorted(before.keys() | now.keys())
            changes += [f"{folder.name}/{name}" for name in names if before.get(name) != now.get(name)]
        return changes


def _stamps(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Size and time of each file that nobody has a reason to write."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part in name for part in VOLATILE):
            status = path.stat()
            yield name, [status.st_size, status.st_mtime_ns]
