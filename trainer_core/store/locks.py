"""Locks: one process works on a key; a second one waits, and finds the result of the first."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from trainer_core.store.disk import disk_errors

log = logging.getLogger(__name__)


def lock_path(directory: Path, name: str) -> Path:
    """The file behind a lock; readable where the name allows it."""
    quoted = quote(name, safe="")
    if len(quoted) > 150:
        quoted = quoted[:80] + "~" + hashlib.sha256(name.encode()).hexdigest()[:32]
    return directory / f"{quoted}.lock"


@contextmanager
def hold_lock(directory: Path, name: str) -> Generator[None]:
    """Hold the lock `name`, waiting for whoever has it; the lock of a killed process is free again.

    Locks of one name taken by two threads exclude each other too, so a thread must not take one name twice.

    Raises:
        StoreError: the lock file cannot be made.
    """
    from filelock import FileLock, Timeout  # 45 ms: not on the path of a no-op

    path = lock_path(directory, name)
    lock = FileLock(path)
    with disk_errors(path, "lock"):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            began = time.monotonic()
            log.info("waiting for another process that works on %s", name, extra={"waiting_for": name})
            lock.acquire()
            waited = time.monotonic() - began
            log.info("waited %.0f s for another process that worked on %s", waited, name, extra={"waiting_for": None})
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether some process holds the lock behind this file."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return False
    lock.release()
    return False
