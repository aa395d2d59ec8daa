"""Walk a folder with scandir: every file once, links followed, loops named, nothing opened."""

from __future__ import annotations

import os
import stat as modes
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import NamedTuple

from trainer_core.types import FileStat


class File(NamedTuple):
    """A directory entry that is not a folder. `stat` is None when `problem` says why it cannot be read.

    `folder` is relative to the root, "/" between its parts and at its end, "" for the root itself. `stem` is folder and
    name without the extension, `ending` the extension in lower case without its dot, "" if there is none. They are
    kept, not computed at each use: a look at 100,000 files asks for each several times.
    """

    folder: str
    name: str
    path: str
    stem: str
    ending: str
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
    folders: list[tuple[str, list[File]]] = []
    visited = {identity for folder in Path(os.path.realpath(root)).parents if (identity := _identity(str(folder)))}
    pending: list[tuple[str, str]] = [(root, "")]
    links: list[tuple[str, str]] = []
    while pending or links:
        path, relative = pending.pop() if pending else links.pop(0)
        identity = _identity(path)
        if identity is None:
            tree.unreadable.append(relative)
        elif identity in visited:
            tree.repeated.append(relative)
        else:
            visited.add(identity)
            folders.append((relative, _read_folder(tree, path, relative, (pending, links))))
    folders.sort(key=itemgetter(0))
    tree.files = [file for _, files in folders for file in files]
    return tree


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _read_folder(tree: Tree, path: str, relative: str, queues: tuple[list[tuple[str, str]], ...]) -> list[File]:
    """Return the files of one folder by name; queue its folders."""
    pending, links = queues
    try:
        with os.scandir(path) as scan:
            entries = sorted(scan, key=attrgetter("name"))
        newest = os.stat(path).st_ctime_ns
    except OSError:
        tree.unreadable.append(relative)
        return []
    files: list[File] = []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            if entry.is_dir():
                (links if entry.is_symlink() else pending).append((entry.path, f"{relative}{entry.name}/"))
                continue
            found = entry.stat()
        except OSError as error:
            kind = "broken link" if entry.is_symlink() else "unreadable"
            files.append(_file(entry, relative, None, f"{kind}: {error.strerror or error}"))
            continue
        stat = FileStat.of(found)
        if stat.ctime_ns > newest:
            newest = stat.ctime_ns
        if modes.S_ISREG(found.st_mode):
            files.append(_file(entry, relative, stat, ""))
        else:
            # Opening a pipe or a device would wait for ever.
            files.append(_file(entry, relative, None, "not a regular file: a pipe, socket or device"))
    links.sort()
    tree.newest = max(tree.newest, newest)
    return files


def _file(entry: os.DirEntry[str], folder: str, stat: FileStat | None, problem: str) -> File:
    name = entry.name
    before, dot, after = name.rpartition(".")
    return File(folder, name, entry.path, folder + before, after.lower() if dot else "", stat, problem)
