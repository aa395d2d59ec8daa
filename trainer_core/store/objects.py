"""Results of stages: folders of files, published whole under the key of their recipe, checked when they are read."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainer_core.errors import IntegrityError, StoreError
from trainer_core.files import fsync_path
from trainer_core.store.disk import disk_errors, quarantine, remove, temp_path, touch
from trainer_core.store.keys import check_name, seal, sha256_file, unseal
from trainer_core.types import JSON

MANIFEST = "MANIFEST.json"
_FORMAT = 1
_ATTEMPTS = 5
_AGAIN = "Run the project again: what is damaged is made anew."


@dataclass(frozen=True)
class FileRecord:
    """A published file: SHA-256 in hex and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Published:
    """A published result. `files` maps names relative to `path` (with "/") to what they must be."""

    stage: str
    key: str
    data_version: str
    recipe: JSON
    metadata: JSON
    path: Path
    files: Mapping[str, FileRecord]

    def file(self, name: str) -> Path:
        """Path of a file whose bytes were just verified by SHA-256.

        Raises:
            StoreError: the object has no file of this name.
            IntegrityError: the bytes differ. The whole object was set aside, so that the next run makes it anew.
        """
        if name not in self.files:
            raise StoreError(f"{self.path}: has no file {name!r}; it has {', '.join(sorted(self.files)) or 'none'}.")
        problem = self._problem(name)
        if problem is not None:
            quarantine(self.path.parents[2], self.path, str(problem))
            raise problem
        return self.path / name

    def verify(self) -> list[IntegrityError]:
        """Every file that is not what was published; nothing is moved."""
        problems = (self._problem(name) for name in sorted(self.files))
        return [problem for problem in problems if problem is not None]

    def _problem(self, name: str) -> IntegrityError | None:
        path, wanted = self.path / name, self.files[name]
        try:
            found = sha256_file(path)
        except OSError as error:
            return IntegrityError(path, wanted.sha256, f"no readable file ({error.strerror})", _AGAIN)
        return None if found == wanted.sha256 else IntegrityError(path, wanted.sha256, found, _AGAIN)


@dataclass(frozen=True)
class ObjectStore:
    """objects/<stage>/<key>/ with a MANIFEST.json with a checksum of its own."""

    root: Path

    def path(self, stage: str, key: str) -> Path:
        """Where an object lies, or would."""
        return self.root / "objects" / check_name(stage) / check_name(key)

    def get(self, stage: str, key: str) -> Published | None:
        """The object, if it is there with all its files at their sizes; a damaged one is set aside: None."""
        path = self.path(stage, key)
        try:
            published = read_object(path)
        except IntegrityError as error:
            quarantine(self.root, path, str(error))
            return None
        if published is not None:
            touch(path / MANIFEST)
        return published

    @contextmanager
    def staging(self, stage: str, key: str) -> Generator[Path]:
        """An empty folder to write files into; whatever was not published is removed at the end.

        Raises:
            StoreError: the disk is full or not writable, here or while the caller writes into the folder.
        """
        folder = temp_path(self.root, f".{check_name(stage)}.{check_name(key)}")
        with disk_errors(folder, "make this folder"):
            folder.mkdir(parents=True)
        try:
            yield folder
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
                raise
            with disk_errors(folder, f"write {stage}"):
                raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(  # noqa: PLR0913  (what an object is made of)
        self, stage: str, key: str, staged: Path, *, data_version: str, recipe: JSON, metadata: JSON
    ) -> Published:
        """Make a staged folder an object, atomically. An intact object of the same key wins over the new one.

        Raises:
            StoreError: the disk is full or not writable.
        """
        target = self.path(stage, key)
        with disk_errors(target, "publish"):
            files = _hash_files(staged)
            record = {
                "format": _FORMAT,
                "stage": stage,
                "key": key,
                "data_version": data_version,
                "recipe": recipe,
                "metadata": metadata,
                "files": {name: {"sha256": file.sha256, "size": file.size} for name, file in files.items()},
            }
            (staged / MANIFEST).write_bytes(seal(record))
            _fsync_tree(staged)
            target.parent.mkdir(parents=True, exist_ok=True)
            return self._move_in(staged, stage, key)

    def remove(self, stage: str, key: str) -> None:
        """Delete an object; no error when there is none."""
        remove(self.root, self.path(stage, key))

    def all(self) -> list[tuple[str, str]]:
        """(stage, key) of every object folder, sorted, whole or not."""
        return sorted((path.parent.name, path.name) for path in (self.root / "objects").glob("*/*"))

    def _move_in(self, staged: Path, stage: str, key: str) -> Published:
        target = self.path(stage, key)
        for _ in range(_ATTEMPTS):
            existing = self.get(stage, key)
            if existing is not None:
                problems = existing.verify()
                if not problems:
                    return existing
                quarantine(self.root, target, str(problems[0]))
            try:
                staged.rename(target)
            except OSError as error:
                # Another process published this key in between: look at what it made.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                continue
            fsync_path(target.parent)
            published = read_object(target)
            assert published is not None, f"{target} vanished right after it was published"
            return published
        raise StoreError(f"{target}: a damaged object lies here and cannot be moved. Remove this folder and run again.")


def read_object(path: Path) -> Published | None:
    """Read an object's manifest and compare the sizes of its files; moves nothing.

    Returns None when there is no such folder.

    Raises:
        IntegrityError: the manifest or a file is damaged or missing.
        StoreError: it cannot be read.
    """
    manifest = path / MANIFEST
    if not path.is_dir():
        return None
    try:
        with disk_errors(manifest, "read"):
            record = unseal(manifest.read_bytes())
        published = _from_record(path, record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(manifest, "a whole manifest", str(error), _AGAIN) from error
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError) and path.is_dir():
            raise IntegrityError(manifest, "a manifest", "no such file", _AGAIN) from error
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    _check_sizes(published)
    return published


def _from_record(path: Path, record: Mapping[str, JSON]) -> Published:
    if (record["stage"], record["key"]) != (path.parent.name, path.name):
        raise ValueError(f"it is the manifest of {record['stage']}/{record['key']}")
    if record["format"] != _FORMAT:
        raise ValueError(f"it has format {record['format']}, this version reads {_FORMAT}")
    return Published(
        stage=record["stage"],
        key=record["key"],
        data_version=record["data_version"],
        recipe=record["recipe"],
        metadata=record["metadata"],
        path=path,
        files={name: FileRecord(file["sha256"], file["size"]) for name, file in record["files"].items()},
    )


def _check_sizes(published: Published) -> None:
    for name, wanted in published.files.items():
        path = published.path / name
        try:
            size = path.stat().st_size
        except OSError as error:
            found = f"no readable file ({error.strerror})"
            raise IntegrityError(path, f"{wanted.size} bytes", found, _AGAIN) from error
        if size != wanted.size:
            raise IntegrityError(path, f"{wanted.size} bytes", f"{size} bytes", _AGAIN)


def _hash_files(folder: Path) -> dict[str, FileRecord]:
    files: dict[str, FileRecord] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        # a link would publish something that can change later
        assert not path.is_symlink(), f"{path} is a link: objects hold files"
        assert name != MANIFEST, f"{path}: this name is the store's own"
        if path.is_file():
            files[name] = FileRecord(sha256_file(path), path.stat().st_size)
    return files


def _fsync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        fsync_path(path)
    fsync_path(folder)
