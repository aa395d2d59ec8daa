"""Walk a folder with scandir: every file once, links followed, loops named, nothing opened."""

from __future__ import annotations

import os
import stat as modes
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from trainer_core.types import FileStat


class File(NamedTuple):
    """A directory entry that is not a folder. `stat` is None when `problem` says why it cannot be read.

    `folder` is relative to the root, "/" between its parts and at its end, "" for the root itself.
    """

    folder: str
    name: str
    path: str
    stat: FileStat | None
    problem: str

    @property
    def relative(self) -> str:
        """Path relative to the root of the walk."""
        return self.folder + self.name


@dataclass
class Tree:
    """All files below a root, in a fixed order. `newest` is the latest ctime of any file or folder in nanoseconds."""

    files: list[File] = field(default_factory=list[File])
    repeated: list[str] = field(default_factory=list[str])
    """Links to folders that are read already, or that contain the root: followed no further."""
    unreadable: list[str] = field(default_factory=list[str])
    newest: int = 0


def walk(root: str) -> Tree:
    """List the files below `root` (absolute). Names that begin with a dot are skipped.

    Real folders are read before linked ones, so that a folder keeps its own name when a link leads to it too. A folder
    is known by (st_dev, st_ino) and read once; the folders above the root count as read, since entering them is a loop.
    """
    tree = Tree()
    seen = {identity for folder in Path(os.path.realpath(root)).parents if (identity := _identity(str(folder)))}
    pending: list[tuple[str, str]] = [(root, "")]
    links: list[tuple[str, str]] = []
    while pending or links:
        path, relative = pending.pop() if pending else links.pop(0)
        identity = _identity(path)
        if identity is None:
            tree.unreadable.append(relative)
        elif identity in seen:
            tree.repeated.append(relative)
        else:
            seen.add(identity)
            _read_folder(tree, path, relative, (pending, links))
    tree.files.sort(key=attrgetter("folder", "name"))
    return tree


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _read_folder(tree: Tree, path: str, relative: str, queues: tuple[list[tuple[str, str]], ...]) -> None:
    pending, links = queues
    try:
        with os.scandir(path) as scan:
            entries = [entry for entry in scan if not entry.name.startswith(".")]
        newest = os.stat(path).st_ctime_ns
    except OSError:
        tree.unreadable.append(relative)
        return
    for entry in entries:
        try:
            if entry.is_dir():
                (links if entry.is_symlink() else pending).append((entry.path, f"{relative}{entry.name}/"))
                continue
            found = entry.stat()
        except OSError as error:
            kind = "broken link" if entry.is_symlink() else "unreadable"
            tree.files.append(File(relative, entry.name, entry.path, None, f"{kind}: {error.strerror or error}"))
            continue
        tree.files.append(_file(entry, relative, found))
        newest = max(newest, found.st_ctime_ns)
    links.sort()
    tree.newest = max(tree.newest, newest)


def _file(entry: os.DirEntry[str], folder: str, found: os.stat_result) -> File:
    if not modes.S_ISREG(found.st_mode):
        # Opening a pipe or a device would wait for ever.
        return File(folder, entry.name, entry.path, None, "not a regular file: a pipe, socket or device")
    stat = FileStat(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    return File(folder, entry.name, entry.path, stat, "")
