"""Atomic writes: a kill at any moment leaves the old file or the new one. Errors name the fix."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from trainer_core import files
from trainer_core.errors import StoreError

log = logging.getLogger(__name__)

TOUCH_AFTER_SECONDS = 900.0
_FREE_SPACE = "Free some space on this disk (`lora-assets gc` removes what no project uses)."
_WRITABLE = "Make it writable, or point LORA_ASSETS_HOME at a folder that is."
_FIXES = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EFBIG: "The file system or a limit of the process refuses files this large: use another disk.",
    errno.EROFS: _WRITABLE,
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.ENOTDIR: _WRITABLE,
    errno.ENOENT: _WRITABLE,
    errno.EMFILE: "Raise the limit on open files (`ulimit -n`).",
}


def fix_for(number: int | None) -> str:
    """What a user can do about an operating system error."""
    return _FIXES.get(number or 0, "Check this disk.")


@contextmanager
def disk_errors(path: Path, doing: str) -> Generator[None]:
    """Turn what the operating system refuses into a StoreError naming `path` and the fix."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: cannot {doing}: {error.strerror or error}. {fix_for(error.errno)}") from error


def temp_path(root: Path, suffix: str = "") -> Path:
    """A path under tmp/ that nobody else uses; its name tells gc which process it belongs to."""
    host = quote(socket.gethostname(), safe="")
    return root / "tmp" / f"{host}~{os.getpid()}~{uuid.uuid4().hex}{suffix}"


def is_alive(temporary: Path) -> bool:
    """Whether the process that made a temp path still runs on this machine."""
    host, _, rest = temporary.name.partition("~")
    pid = rest.partition("~")[0]
    if host != quote(socket.gethostname(), safe="") or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_atomic(root: Path, path: Path, data: bytes) -> None:
    """Write `path` under `root` whole or not at all.

    Raises:
        StoreError: the disk is full or not writable.
    """
    with disk_errors(path, "write"):
        files.write_atomic(path, data, temp_path(root))


def quarantine(root: Path, path: Path, reason: str) -> Path | None:
    """Move something damaged to root/damaged/, where nothing reads it, and warn.

    Returns where it lies now, or None when it is gone already or cannot be moved.
    """
    name = "_".join(path.relative_to(root).parts)
    target = root / "damaged" / f"{name}.{uuid.uuid4().hex[:8]}"
    try:
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
        # A rename keeps the old times, and gc counts from when it was set aside.
        os.utime(target)
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s is damaged (%s) and could not be set aside: %s", path, reason, error)
        return None
    log.warning("%s is damaged (%s): set aside as %s", path, reason, target)
    return target


def remove(root: Path, path: Path) -> None:
    """Delete a file or a folder; after a kill halfway nothing passes for a complete one."""
    doomed = temp_path(root, ".removed")
    with disk_errors(path, "remove"):
        try:
            path.rename(doomed)
        except FileNotFoundError:
            return
        if doomed.is_dir() and not doomed.is_symlink():
            shutil.rmtree(doomed, ignore_errors=True)
        else:
            doomed.unlink(missing_ok=True)


def touch(path: Path) -> None:
    """Note that `path` is in use, so that gc's grace counts from now; at most every quarter of an hour."""
    with suppress(OSError):
        if time.time() - path.stat().st_mtime > TOUCH_AFTER_SECONDS:
            os.utime(path)
