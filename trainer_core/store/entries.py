"""Cached samples: append-only shards of tensors, found by the key of the sample."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trainer_core.errors import DamagedEntries, StoreError
from trainer_core.store.disk import disk_errors, quarantine, remove, touch
from trainer_core.store.index import Index, ShardRow
from trainer_core.store.shards import SUFFIX, MappedShard, PendingEntry, ShardDamaged, read_header, write_shard
from trainer_core.store.writer import EntryWriter
from trainer_core.types import JSON

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

Kind = Literal["latents", "text"]
KINDS: tuple[Kind, ...] = ("latents", "text")


@dataclass(frozen=True)
class ShardInfo:
    """A shard: its file, kind, the keys of its entries and its size in bytes."""

    path: Path
    kind: Kind
    keys: tuple[str, ...]
    bytes: int


@dataclass
class EntryStore:
    """The entries under root/entries/. Safe between processes, and between the threads of one."""

    root: Path
    index: Index
    _shards: dict[str, ShardInfo] = field(default_factory=dict[str, ShardInfo])
    """Name ("latents/<digest>.safetensors") -> shard."""
    _where: dict[str, str] = field(default_factory=dict[str, str])
    """Key -> name of a shard that holds it."""
    _mapped: dict[str, MappedShard] = field(default_factory=dict[str, MappedShard])
    _mutex: threading.RLock = field(default_factory=threading.RLock)

    def refresh(self) -> None:
        """Compare what is known with the folder: learn new shards, forget those that are gone or have another size.

        Raises:
            StoreError: the store cannot be read.
        """
        with self._mutex:
            sizes = self._listing()
            gone = [name for name, shard in self._shards.items() if sizes.get(name) != shard.bytes]
            if gone:
                self._forget(gone)
            new = {name: size for name, size in sizes.items() if name not in self._shards}
            if new:
                self._learn(new)

    def present(self, keys: Iterable[str]) -> set[str]:
        """Which of these entries are in the store. They then count as used: gc keeps them for its grace."""
        with self._mutex:
            self.refresh()
            found = {key for key in keys if key in self._where}
            for name in {self._where[key] for key in found}:
                touch(self._shards[name].path)
            return found

    def writer(
        self, kind: Kind, *, max_entries: int = 512, max_bytes: int = 256 << 20, max_seconds: float = 20.0
    ) -> EntryWriter:
        """A context that collects entries and publishes them as a shard whenever a limit is reached, and at its end."""
        assert kind in KINDS, f"no such kind of entries: {kind}"
        return EntryWriter(partial(self.publish, kind), max_entries, max_bytes, max_seconds)

    def read(self, keys: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """Tensors of entries, as views of the mapped files: no copy, and pages shared between processes.

        Every entry's SHA-256 is verified once per process. Do not write into the tensors: other readers in this process
        would see it (the file would not change). Data begins at a multiple of the size of its elements and no more is
        promised: copy tensors that need the 64 bytes of torch's own allocator.

        Raises:
            DamagedEntries: entries are missing or damaged. The damaged ones are out of the store now, their file
                is in root/damaged/, and its intact entries were saved to a new shard.
        """
        found: dict[str, dict[str, Tensor]] = {}
        bad: dict[str, str] = {}
        with self._mutex:
            for key in keys:
                reason = self._find(key)
                if reason is None:
                    found[key] = self._mapped[self._where[key]].tensors(key)
                else:
                    bad[key] = reason
        if bad:
            raise DamagedEntries(list(bad), list(bad.values()))
        return found

    def notes(self, keys: Sequence[str]) -> dict[str, Mapping[str, JSON]]:
        """The notes that were written with entries.

        Raises:
            DamagedEntries: as `read` does.
        """
        self.read(keys)
        with self._mutex:
            return {key: self._mapped[self._where[key]].header.entries[key].note for key in keys}

    def discard(self, keys: Collection[str]) -> None:
        """Take entries out of the store, in every shard that holds them.

        Raises:
            StoreError: the store cannot be written.
        """
        doomed = set(keys)
        for shard in self.shards():
            if not doomed.isdisjoint(shard.keys):
                self.rewrite(shard, [key for key in shard.keys if key not in doomed])

    def shards(self) -> list[ShardInfo]:
        """All shards, sorted by path."""
        with self._mutex:
            self.refresh()
            return sorted(self._shards.values(), key=lambda shard: shard.path)

    def rewrite(self, shard: ShardInfo, keep: Collection[str]) -> Path | None:
        """Replace a shard by one that holds only `keep`, bit for bit; returns it, or None when nothing was kept.

        Entries that turn out to be damaged are left out with a warning.

        Raises:
            StoreError: the store cannot be written.
        """
        with self._mutex:
            try:
                successor = self._save(self._map(_name(shard)), shard.kind, keep)
            except (ShardDamaged, FileNotFoundError) as error:
                self._drop(_name(shard), str(error))
                return None
            if successor != shard.path:
                remove(self.root, shard.path)
                self._forget([_name(shard)])
            return successor

    def publish(self, kind: Kind, entries: Mapping[str, PendingEntry]) -> Path:
        """Write one shard and make its entries known; `writer` is the way to call this.

        Raises:
            StoreError: the store cannot be written.
        """
        path = write_shard(self.root, kind, entries)
        shard = ShardInfo(path, kind, tuple(sorted(entries)), path.stat().st_size)
        with self._mutex:
            self._mapped.pop(_name(shard), None)
            self._adopt({_name(shard): shard})
        return path

    def close(self) -> None:
        """Release the mapped files; tensors that were read stay valid."""
        with self._mutex:
            self._mapped.clear()

    def _find(self, key: str) -> str | None:
        """Make sure that a verified copy of the entry is mapped, going through all copies; what is wrong, or None."""
        reason = None
        refreshed = False
        while True:
            name = self._where.get(key)
            if name is None and not refreshed:
                refreshed = True
                self.refresh()
            elif name is None:
                return reason or f"{self.root / 'entries'}: entry {key} is not in the store"
            else:
                problem = self._check(name, key)
                if problem is None:
                    return None
                reason = problem

    def _check(self, name: str, key: str) -> str | None:
        path = self._shards[name].path
        try:
            problem = self._map(name).verify(key)
        except FileNotFoundError:
            # gc or discard in another process put another shard in its place.
            self._forget([name])
            self.refresh()
            return f"{path}: entry {key}: the file is gone"
        except ShardDamaged as error:
            self._drop(name, str(error))
            return f"{path}: entry {key}: {error}"
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror or error}. Check this disk.") from error
        if problem is not None:
            self._excise(name, problem)
        return problem

    def _excise(self, name: str, reason: str) -> None:
        """Save the intact entries of a damaged shard, then set it aside."""
        shard = self._shards[name]
        try:
            if self._save(self._map(name), shard.kind, shard.keys) == shard.path:
                # the second read was intact, and the same shard was just written in its place
                return
        except StoreError as error:
            log.warning("%s: its intact entries could not be saved: %s", shard.path, error)
        self._drop(name, reason)

    def _save(self, mapped: MappedShard, kind: Kind, keep: Collection[str]) -> Path | None:
        survivors: dict[str, PendingEntry] = {}
        for key in keep:
            copy = mapped.copy(key)
            if isinstance(copy, PendingEntry):
                survivors[key] = copy
            else:
                log.warning("%s: dropped, so that it is computed again", copy)
        return self.publish(kind, survivors) if survivors else None

    def _map(self, name: str) -> MappedShard:
        mapped = self._mapped.get(name)
        if mapped is None:
            mapped = self._mapped[name] = MappedShard(self._shards[name].path)
        return mapped

    def _drop(self, name: str, reason: str) -> None:
        quarantine(self.root, self._shards[name].path, reason)
        self._forget([name])

    def _listing(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        with disk_errors(self.root / "entries", "list"):
            for kind in KINDS:
                with os.scandir(self.root / "entries" / kind) as listing:
                    for item in listing:
                        if item.name.endswith(SUFFIX):
                            sizes[f"{kind}/{item.name}"] = _size(item)
        return {name: size for name, size in sizes.items() if size >= 0}

    def _learn(self, sizes: Mapping[str, int]) -> None:
        rows = self.index.shards(sizes)
        remembered: dict[str, ShardInfo] = {}
        scanned: dict[str, ShardInfo] = {}
        for name in sorted(sizes):
            row = rows.get(name)
            path = self.root / "entries" / name
            if row is not None and row.size == sizes[name]:
                remembered[name] = ShardInfo(path, _kind(name), row.keys, row.size)
            else:
                info = self._scan(name, path)
                if info is not None:
                    scanned[name] = info
        self._know(remembered)
        if scanned:
            self._adopt(scanned)

    def _scan(self, name: str, path: Path) -> ShardInfo | None:
        try:
            header = read_header(path)
            if header.kind != _kind(name):
                raise ShardDamaged(f"it holds {header.kind}")
        except FileNotFoundError:
            return None
        except ShardDamaged as error:
            quarantine(self.root, path, str(error))
            return None
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror or error}. Check this disk.") from error
        return ShardInfo(path, _kind(name), tuple(sorted(header.entries)), header.size)

    def _adopt(self, shards: Mapping[str, ShardInfo]) -> None:
        self._know(shards)
        self.index.put_shards({name: ShardRow(shard.bytes, shard.keys) for name, shard in shards.items()})

    def _know(self, shards: Mapping[str, ShardInfo]) -> None:
        for name, shard in shards.items():
            self._shards[name] = shard
            self._where.update(dict.fromkeys(shard.keys, name))

    def _forget(self, names: Sequence[str]) -> None:
        lost: set[str] = set()
        for name in names:
            self._mapped.pop(name, None)
            shard = self._shards.pop(name, None)
            lost.update(shard.keys if shard is not None else ())
        lost = {key for key in lost if self._where[key] not in self._shards}
        for key in lost:
            del self._where[key]
        # Another shard may hold a copy, written by a process that worked at the same time.
        for name, shard in self._shards.items():
            self._where.update({key: name for key in shard.keys if key in lost})
        self.index.drop_shards(names)


def _name(shard: ShardInfo) -> str:
    return f"{shard.kind}/{shard.path.name}"


def _kind(name: str) -> Kind:
    return "latents" if name.startswith("latents/") else "text"


def _size(item: os.DirEntry[str]) -> int:
    """Size in bytes; -1 when it vanished meanwhile."""
    try:
        return item.stat().st_size
    except FileNotFoundError:
        return -1
