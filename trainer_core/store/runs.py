"""Folders of training runs: which projects they belong to, how much disk they use, and which may be removed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from trainer_core.store.disk import remove, write_atomic
from trainer_core.store.locks import is_held, lock_path
from trainer_core.store.objects import read_object

if TYPE_CHECKING:
    from trainer_core.store.store import Store

_CLAIMS = "projects"
_DAY = 86_400.0


@dataclass(frozen=True)
class RunFolder:
    """A folder below `runs/`."""

    path: Path
    projects: frozenset[str]
    """Projects that trained it; recipes that are equal share a run."""
    bytes: int
    used: float
    """When something in it was last written, in seconds since the epoch."""


def claim(root: Path, run: str, project: str) -> None:
    """Note that a project trains in a run's folder. `root` is the store's."""
    path = root / "runs" / run / _CLAIMS / quote(project, safe="")
    if path.exists():
        path.touch()
    else:
        write_atomic(root, path, b"")


def runs_of(root: Path, project: str) -> list[RunFolder]:
    """Return the runs that a project trained, the one that was idle for longest first."""
    found = (_run_folder(path) for path in sorted((root / "runs").glob("*")) if path.is_dir())
    return sorted((run for run in found if project in run.projects), key=lambda run: (run.used, run.path.name))


def removable(store: Store, project: str, kept: Iterable[str] = ()) -> list[RunFolder]:
    """Return the runs that may go, the one that was idle for longest first.

    Those of other projects may not, nor one that some project's current result was made from, that is being trained, or
    that is named in `kept`. Where it is not known what a current result was made from, none may.
    """
    needed = _needed(store)
    if needed is None:
        return []
    spared = {*needed, *kept}
    return [
        run
        for run in runs_of(store.root, project)
        if run.projects == frozenset((project,))
        and run.path.name not in spared
        and not is_held(lock_path(store.root / "locks", f"run-{run.path.name}"))
    ]


def remove_idle(store: Store, project: str, days: float, kept: Iterable[str] = ()) -> list[RunFolder]:
    """Remove the runs of a project that were idle for longer than `days` and may go; return them."""
    old = [run for run in removable(store, project, kept) if time.time() - run.used > days * _DAY]
    for run in old:
        remove(store.root, run.path)
    return old


def free_space(store: Store, project: str, most: int, run: str, needs: int) -> tuple[list[RunFolder], int]:
    """Remove runs of a project, the idlest first, until those left and a new one fit into `most` bytes.

    Nothing is removed where that would not be enough.

    Args:
        store: the store.
        project: whose runs.
        most: bytes that all of its runs may take.
        run: the run that needs the space.
        needs: bytes that it will take.

    Returns:
        What was removed, and the bytes that are still missing.
    """
    others = sum(one.bytes for one in runs_of(store.root, project) if one.path.name != run)
    missing, doomed = others + needs - most, list[RunFolder]()
    for one in removable(store, project, (run,)):
        if missing <= 0:
            break
        doomed.append(one)
        missing -= one.bytes
    if missing > 0:
        return [], missing
    for one in doomed:
        remove(store.root, one.path)
    return doomed, 0


def _run_folder(path: Path) -> RunFolder:
    projects = frozenset(unquote(claim.name) for claim in (path / _CLAIMS).glob("*"))
    size, used = 0, 0.0
    for item in path.rglob("*"):
        try:
            stat = item.lstat()
        except FileNotFoundError:
            continue
        size += stat.st_size if item.is_file() else 0
        used = max(used, stat.st_mtime)
    return RunFolder(path, projects, size, used)


def _needed(store: Store) -> set[str] | None:
    """Names of the runs that current results were made from; None where one of those cannot be read."""
    if store.refs.damaged():
        return None
    needed: set[str] = set()
    for (_, stage), key in store.refs.all().items():
        published = read_object(store.objects.path(stage, key))
        if published is None:
            return None
        if isinstance(published.metadata, dict) and isinstance(run := published.metadata.get("run"), str):  # pyright: ignore[reportUnnecessaryIsInstance]
            needed.add(run)
    return needed
