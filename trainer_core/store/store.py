"""The store: everything that was computed, under the key of what it was computed from.

root/
├── index.sqlite              a cache of what the rest says
├── entries/<kind>/           shards of cached samples
├── objects/<stage>/<key>/    results of stages
├── refs/<project>/           which result each project uses now
├── runs/<key>/               work in progress of training
├── locks/  tmp/  damaged/
└── VERSION
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from zlib import crc32

from trainer_core.errors import StoreError
from trainer_core.store.disk import disk_errors, quarantine, write_atomic
from trainer_core.store.entries import KINDS, EntryStore
from trainer_core.store.index import Index
from trainer_core.store.locks import hold_lock
from trainer_core.store.objects import ObjectStore
from trainer_core.store.refs import Refs

log = logging.getLogger(__name__)

VERSION = 1
_FOLDERS = ("objects", "refs", "runs", "locks", "tmp", *(f"entries/{kind}" for kind in KINDS))


@dataclass(frozen=True)
class Store:
    """A store at `root`; open it with `Store.open`, one for each process."""

    root: Path
    index: Index
    entries: EntryStore
    objects: ObjectStore
    refs: Refs

    @classmethod
    def open(cls, root: Path) -> Store:
        """Open the store at `root`, making it if there is none.

        Raises:
            StoreError: it cannot be written, or a newer version of this program made it.
        """
        root = root.absolute()
        for folder in _FOLDERS:
            with disk_errors(root / folder, "make this folder"):
                (root / folder).mkdir(parents=True, exist_ok=True)
        _check_version(root)
        index = Index(root)
        store = cls(root, index, EntryStore(root, index), ObjectStore(root), Refs(root))
        store.entries.refresh()
        return store

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Hold a lock by name, across processes and threads; a second one waits. Not reentrant."""
        return hold_lock(self.root / "locks", name)

    def close(self) -> None:
        """Release the mapped files; tensors that were read stay valid."""
        self.entries.close()
        self.index.close()

    def __enter__(self) -> Store:
        """Use as a context."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close."""
        self.close()


def version_line(version: int) -> bytes:
    """Contents of VERSION: the number, and a checksum so that a flipped digit is no other version."""
    text = f"lora-assets store {version}"
    return f"{text} {crc32(text.encode()):08x}\n".encode()


def read_version(path: Path) -> int:
    """The version a VERSION file names.

    Raises:
        ValueError: its bytes are damaged.
        OSError: it cannot be read.
    """
    raw = path.read_bytes()
    words = raw.split()
    if len(words) != 4 or not words[2].isdigit() or version_line(int(words[2])) != raw:
        raise ValueError("its checksum does not hold")
    return int(words[2])


def _check_version(root: Path) -> None:
    path = root / "VERSION"
    with disk_errors(path, "read"):
        try:
            found = read_version(path)
        except FileNotFoundError:
            found = None
        except ValueError as error:
            # shards and manifests name their own format, so VERSION can safely be written anew
            quarantine(root, path, str(error))
            found = None
    if found is None:
        write_atomic(root, path, version_line(VERSION))
    elif found != VERSION:
        raise StoreError(
            f"{path}: this store has version {found}, this program reads version {VERSION}. "
            "Update the program, or point LORA_ASSETS_HOME at another folder."
        )
