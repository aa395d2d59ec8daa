"""What the store remembers to save time. It is a cache: all of it can be made again.

Deleting it costs a scan, never a re-encode. Every row carries a CRC-32 of its contents, checked when it is read: a bad
row counts as absent. A database that SQLite cannot read is moved aside and begun anew.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from zlib import crc32

from trainer_core.errors import StoreError
from trainer_core.store.disk import disk_errors, fix_for, quarantine
from trainer_core.store.keys import canonical_json, sha256_file
from trainer_core.store.locks import hold_lock
from trainer_core.types import JSON, FileStat

log = logging.getLogger(__name__)
T = TypeVar("T")

RACY_NS = 100_000_000
# Python also fails to decode the messages that SQLite makes of damaged names.
_SQL_ERRORS = (sqlite3.Error, UnicodeDecodeError)
_BUSY_SECONDS = 30.0
_SAVE_EVERY = 256
_TABLES = {
    "facts": "CREATE TABLE facts (kind TEXT, key TEXT, value TEXT, crc INTEGER, PRIMARY KEY (kind, key)) WITHOUT ROWID",
    "files": "CREATE TABLE files (folder TEXT, name TEXT, size INTEGER, mtime INTEGER, ctime INTEGER, inode INTEGER, "
    "sha256 TEXT, crc INTEGER, PRIMARY KEY (folder, name)) WITHOUT ROWID",
    "shards": "CREATE TABLE shards (name TEXT PRIMARY KEY, size INTEGER, keys TEXT, crc INTEGER) WITHOUT ROWID",
}
# Errors that say something of the disk or of other processes; every other one says that the database is damaged.
_OUTSIDE = {
    sqlite3.SQLITE_BUSY: "Another process holds it: wait for it, or end it.",
    sqlite3.SQLITE_LOCKED: "Another process holds it: wait for it, or end it.",
    sqlite3.SQLITE_FULL: fix_for(28),
    sqlite3.SQLITE_READONLY: fix_for(30),
    sqlite3.SQLITE_CANTOPEN: fix_for(30),
    sqlite3.SQLITE_PERM: fix_for(30),
    sqlite3.SQLITE_IOERR: fix_for(None),
}


@dataclass(frozen=True)
class ShardRow:
    """What is remembered of a shard: its size in bytes and the keys of its entries."""

    size: int
    keys: tuple[str, ...]


@dataclass
class Index:
    """The SQLite file at `path` (WAL), shared by any number of processes and threads."""

    root: Path
    _connection: sqlite3.Connection | None = None
    _owner: tuple[int, int] = (0, 0)
    """Process that opened the connection, and inode of the file it opened."""
    _mutex: threading.RLock = field(default_factory=threading.RLock)
    _inherited: list[sqlite3.Connection] = field(default_factory=list[sqlite3.Connection])

    @property
    def path(self) -> Path:
        """The database file."""
        return self.root / "index.sqlite"

    def file_hashes(self, files: Mapping[str, FileStat], threads: int = 4) -> dict[str, str]:
        """SHA-256, in hex, of each file: absolute path -> digest. Only files whose stat changed are read.

        A file that changed less than 100 ms before it was hashed is hashed again next time: within one tick of the file
        system's clock, a second change would leave the same stat. Files that cannot be read are left out.

        Raises:
            StoreError: the index cannot be written.
        """
        known, bad = self._run(lambda connection: _known_files(connection, files))
        self._warn(bad)
        stale = [path for path in files if path not in known]
        if not stale:
            return known
        fresh: list[tuple[str | int, ...]] = []
        pool = ThreadPoolExecutor(max_workers=max(1, threads))
        try:
            for path, sha256, trusted in pool.map(_hash, stale, [files[path] for path in stale]):
                if sha256 is None:
                    continue
                known[path] = sha256
                if trusted:
                    fresh.append(_file_row(path, files[path], sha256))
                if len(fresh) >= _SAVE_EVERY:
                    self._insert("files", fresh)
                    fresh = []
        finally:
            # also after an interruption: hours of hashing are not done twice
            pool.shutdown(cancel_futures=True)
            self._insert("files", fresh)
        return known

    def facts(self, kind: str, keys: Iterable[str]) -> dict[str, JSON]:
        """Return what `remember` stored for these keys; unknown keys are left out."""
        wanted = json.dumps(list(keys))
        query = "SELECT key, value, crc FROM facts WHERE kind = ? AND key IN (SELECT value FROM json_each(?))"
        rows = self._run(lambda connection: connection.execute(query, (kind, wanted)).fetchall())
        good = {key: json.loads(value) for key, value, crc in rows if crc == _crc(f"facts\0{kind}\0{key}\0{value}")}
        self._warn(len(rows) - len(good))
        return good

    def remember(self, kind: str, facts: Mapping[str, JSON]) -> None:
        """Keep small facts that depend on nothing but their key.

        Raises:
            StoreError: the index cannot be written.
        """
        spelled = ((key, canonical_json(value).decode("utf-8", "replace")) for key, value in facts.items())
        self._insert("facts", [(kind, key, value, _crc(f"facts\0{kind}\0{key}\0{value}")) for key, value in spelled])

    def shards(self, names: Iterable[str]) -> dict[str, ShardRow]:
        """What is remembered of these shards."""
        wanted = json.dumps(list(names))
        query = "SELECT name, size, keys, crc FROM shards WHERE name IN (SELECT value FROM json_each(?))"
        rows = self._run(lambda connection: connection.execute(query, (wanted,)).fetchall())
        good = {
            name: ShardRow(size, tuple(keys.split("\n")) if keys else ())
            for name, size, keys, crc in rows
            if crc == _crc(f"shards\0{name}\0{size}\0{keys}")
        }
        self._warn(len(rows) - len(good))
        return good

    def put_shards(self, shards: Mapping[str, ShardRow]) -> None:
        """Remember shards that were published."""
        spelled = ((name, shard.size, "\n".join(shard.keys)) for name, shard in shards.items())
        self._insert(
            "shards", [(name, size, keys, _crc(f"shards\0{name}\0{size}\0{keys}")) for name, size, keys in spelled]
        )

    def drop_shards(self, names: Iterable[str]) -> None:
        """Forget shards that are gone."""
        gone = [(name,) for name in names]
        if gone:
            self._run(lambda connection: _write(connection, "DELETE FROM shards WHERE name = ?", gone))

    def check(self) -> list[str]:
        """What is wrong with the database file, in words; mends nothing."""
        try:
            with self._mutex:
                connection = self._connect()
                found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(5)") if row[0] != "ok"]
                bad = sum(_bad_rows(connection, table) for table in _TABLES)
        except _SQL_ERRORS as error:
            return [str(error)]
        return found + ([f"{bad} rows do not match their checksum"] if bad else [])

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        with self._mutex:
            if self._connection is not None and self._owner[0] == os.getpid():
                self._connection.close()
            self._connection = None

    def _warn(self, bad: int) -> None:
        if bad:
            log.warning("%s: %d damaged rows are ignored; what they held is computed again", self.path, bad)

    def _insert(self, table: str, rows: Sequence[tuple[str | int, ...]]) -> None:
        rows = [row for row in rows if all(not isinstance(cell, str) or _is_text(cell) for cell in row)]
        if rows:
            query = f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(rows[0]))})"
            self._run(lambda connection: _write(connection, query, rows))

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._mutex:
            try:
                return work(self._connect())
            except sqlite3.ProgrammingError:
                raise
            except _SQL_ERRORS as error:
                self._refuse_unless_damaged(error)
                self._begin_anew(str(error))
            try:
                return work(self._connect())
            except _SQL_ERRORS as error:
                raise StoreError(f"{self.path}: {error}. Check this disk.") from error

    def _refuse_unless_damaged(self, error: Exception) -> None:
        code: int | None = getattr(error, "sqlite_errorcode", None)
        fix = None if code is None else _OUTSIDE.get(code & 0xFF)
        # A damaged header can also make SQLite believe that the file is read-only.
        mistaken = code is not None and code & 0xFF == sqlite3.SQLITE_READONLY and _writable(self.path)
        if fix is not None and not mistaken:
            raise StoreError(f"{self.path}: {error}. {fix}") from error

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None and self._owner[0] == os.getpid():
            return self._connection
        if self._connection is not None:
            # After a fork: closing the parent's connection here would pull its WAL from under it.
            self._inherited.append(self._connection)
            self._connection = None
        if self.path.exists():
            connection = _open(self.path)
        else:
            with hold_lock(self.root / "locks", "index"):
                connection = _open(self.path)
        self._owner = (os.getpid(), _inode(self.path))
        self._connection = connection
        return connection

    def _begin_anew(self, reason: str) -> None:
        opened = self._owner[1] if self._connection is not None else _inode(self.path)
        self.close()
        with hold_lock(self.root / "locks", "index"):
            # another process may have replaced the damaged file already
            if _inode(self.path) != opened:
                return
            for suffix in ("", "-wal", "-shm"):
                part = self.path.with_name(self.path.name + suffix)
                if part.exists() and quarantine(self.root, part, reason) is None and part.exists():
                    raise StoreError(f"{part}: is damaged ({reason}) and cannot be moved. Remove it.")


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        if not _schema(connection):
            with _transaction(connection):
                # Two processes may both have seen an empty file.
                if not _schema(connection):
                    for statement in _TABLES.values():
                        connection.execute(statement)
        if _schema(connection) != _TABLES:
            raise sqlite3.DatabaseError("the tables are not those of this version")
    except BaseException:
        connection.close()
        raise
    return connection


def _schema(connection: sqlite3.Connection) -> dict[str, str]:
    return dict(connection.execute("SELECT name, sql FROM sqlite_master"))


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Generator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _write(connection: sqlite3.Connection, query: str, rows: Sequence[tuple[str | int, ...]]) -> None:
    with _transaction(connection):
        connection.executemany(query, rows)


def _known_files(connection: sqlite3.Connection, files: Mapping[str, FileStat]) -> tuple[dict[str, str], int]:
    """Digests of the files whose stat is unchanged, and how many rows are damaged.

    Folder by folder: much faster than looking 100,000 paths up one by one.
    """
    query = "SELECT name, size, mtime, ctime, inode, sha256, crc FROM files WHERE folder = ?"
    known: dict[str, str] = {}
    bad = 0
    for folder in filter(_is_text, {path.rpartition(os.sep)[0] for path in files}):
        for name, size, mtime, ctime, inode, sha256, crc in connection.execute(query, (folder,)):
            path = f"{folder}{os.sep}{name}"
            if files.get(path) != (size, mtime, ctime, inode):
                continue
            if crc == _file_crc(sha256, inode):
                known[path] = sha256
            else:
                bad += 1
    return known, bad


def _file_row(path: str, stat: FileStat, sha256: str) -> tuple[str | int, ...]:
    folder, _, name = path.rpartition(os.sep)
    return folder, name, *stat, sha256, _file_crc(sha256, stat.inode)


def _file_crc(sha256: str, inode: int) -> int:
    """Checksum of a row of `files`. Its other cells need none: if they are damaged, they do not match their file."""
    return crc32(f"{inode} {sha256}".encode("utf-8", "surrogatepass"))


def _hash(path: str, stat: FileStat) -> tuple[str, str | None, bool]:
    """(path, digest or None when unreadable, whether the digest may be remembered for `stat`)."""
    now = time.time_ns()
    try:
        sha256 = sha256_file(Path(path))
        found = os.stat(path)
    except OSError as error:
        log.warning("%s: cannot be read: %s", path, error.strerror)
        return path, None, False
    same = stat == FileStat.of(found)
    racy = min(abs(now - stat.mtime_ns), abs(now - stat.ctime_ns)) < RACY_NS
    return path, sha256, same and not racy


def _bad_rows(connection: sqlite3.Connection, table: str) -> int:
    if table == "files":
        rows = connection.execute("SELECT sha256, inode, crc FROM files")
        return sum(1 for sha256, inode, crc in rows if crc != _file_crc(sha256, inode))
    rows = connection.execute(f"SELECT * FROM {table}")
    return sum(1 for *cells, crc in rows if crc != _crc("\0".join(map(str, (table, *cells)))))


def _crc(row: str) -> int:
    """Checksum of a row, spelled as its table and cells with NUL between: no row passes for one of another table."""
    return crc32(row.encode("utf-8", "surrogatepass"))


def _is_text(value: str) -> bool:
    """Whether SQLite can hold it: file names that are not UTF-8 are hashed again each time instead."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _inode(path: Path) -> int:
    with disk_errors(path, "open"):
        try:
            return path.stat().st_ino
        except FileNotFoundError:
            return 0
