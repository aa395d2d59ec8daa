"""Files that a kill cannot leave half written, logs whose lines check themselves, and reading what was hashed.

Whoever reads a file that was written here sees the old contents or the new ones, after a kill and after a power cut:
the bytes go to a temporary file beside it, to the disk (fsync), and then take the file's name (rename).
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from trainer_core.types import JSON

_CHECKSUM = "crc32"


class FileChanged(Exception):
    """A file no longer holds the bytes that were hashed; the text is its path."""


def fsync_path(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Generator[Path]:
    """Yield a path to write to; when the block ends without an error, that file durably takes the name `path`.

    Missing parent folders are made. After an error the old file stays, and the temporary one is removed.

    Args:
        path: the file to replace, or to make.
        temporary: where to write, on the same file system; if None, a hidden name beside `path` that ends in `.tmp`.

    Raises:
        OSError: the disk is full, or not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    used = temporary or path.with_name(f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name}.tmp")
    try:
        yield used
        fsync_path(used)
        used.replace(path)
        fsync_path(path.parent)
    finally:
        used.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | str, temporary: Path | None = None) -> None:
    """Write a whole file or nothing; text as UTF-8. `temporary` is as in `replacing`.

    Raises:
        OSError: the disk is full, or not writable.
    """
    with replacing(path, temporary) as used:
        used.write_bytes(data.encode() if isinstance(data, str) else data)


def read_verified(path: Path, sha256: str) -> bytes:
    """Return the bytes of a file, which are those that were hashed.

    Raises:
        FileChanged: its SHA-256 is another one now.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise FileChanged(str(path))
    return data


def append_record(path: Path, record: Mapping[str, JSON], durable: bool = False) -> None:
    """Append a record to a log of JSON lines, with its checksum. `durable` waits until it is on the disk."""
    with path.open("a") as file:
        file.write(_sealed_line(record))
        if durable:
            file.flush()
            os.fsync(file.fileno())


def rewrite_records(path: Path, records: Iterable[Mapping[str, JSON]]) -> None:
    """Replace a log of JSON lines by these records."""
    write_atomic(path, "".join(map(_sealed_line, records)))


def read_records(path: Path) -> Iterator[dict[str, JSON]]:
    """Yield the records of a log; a line that a kill cut short, or that was damaged since, is left out."""
    if path.exists():
        yield from parse_records(path.read_text(errors="replace"))


def parse_records(text: str) -> Iterator[dict[str, JSON]]:
    """Yield the records of a part of a log, as `read_records` does; `text` begins where a line begins."""
    for line in text.splitlines():
        try:
            record: dict[str, JSON] = json.loads(line)
            checksum = record.pop(_CHECKSUM)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        # Older logs have the checksum of the record with its names sorted.
        if checksum in (_crc(json.dumps(record)), _crc(json.dumps(record, sort_keys=True))):
            yield record


def _sealed_line(record: Mapping[str, JSON]) -> str:
    values = dict(record)
    return json.dumps(values | {_CHECKSUM: _crc(json.dumps(values))}) + "\n"


def _crc(text: str) -> int:
    return zlib.crc32(text.encode())
