"""`outputs/NAME/`: copies of results for people, with a `checksums.sha256` that `sha256sum -c` reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from trainer_core.files import replacing, write_atomic
from trainer_core.store import Published
from trainer_core.store.disk import disk_errors
from trainer_core.store.keys import sha256_file

CHECKSUMS = "checksums.sha256"


def publish_outputs(
    folder: Path, published: Published, names: Mapping[str, str], hashes: Mapping[str, str]
) -> list[Path]:
    """Copy files of a result into `folder` unless equal ones lie there; return their paths.

    Copies, never links: what a user does to an output must not reach the store. A copy that an earlier result left and
    this one has no file for (a format that is no longer written) is removed, if it is still what was copied.

    Args:
        folder: `outputs/NAME`.
        published: the result.
        names: file of the result -> name in the folder.
        hashes: SHA-256 of files that lie in the folder now, by absolute path.
    """
    written: list[Path] = []
    for name, output in names.items():
        if name not in published.files:
            _remove_outdated(folder / output)
            continue
        target = folder / output
        written.append(target)
        if hashes.get(str(target)) != published.files[name].sha256:
            _copy_atomically(published.file(name), target)
    _update_checksums(
        folder, {target.name: published.files[name].sha256 for name, target in _pairs(published, names, folder)}
    )
    return written


def publish_files(folder: Path, files: Mapping[Path, str]) -> None:
    """Copy files into an outputs folder, path -> name there, with their checksums."""
    for source, name in files.items():
        _copy_atomically(source, folder / name)
    if files:
        _update_checksums(folder, {name: sha256_file(source) for source, name in files.items()})


def remove_outputs(folder: Path, names: Iterable[str]) -> None:
    """Remove outputs that are no longer wanted, if they are still what was copied."""
    for name in names:
        _remove_outdated(folder / name)
    if (folder / CHECKSUMS).exists():
        _update_checksums(folder, {})


def read_checksums(path: Path) -> dict[str, str]:
    """Read a checksums file: name -> SHA-256. Lines that are not `HASH  NAME` are left out."""
    found: dict[str, str] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            expected, _, name = line.partition("  ")
            if len(expected) == 64 and name:
                found[name] = expected
    return found


def check_outputs(path: Path) -> list[dict[str, str]]:
    """Compare an output file, or every file of an outputs folder, with its checksums.

    Returns:
        One `{"path", "expected", "actual"}` a file; `actual` is "missing" for a file that is gone.

    Raises:
        FileNotFoundError: there is nothing at `path`, or no checksums beside it.
    """
    folder = path if path.is_dir() else path.parent
    expected = read_checksums(folder / CHECKSUMS)
    if path.is_file():
        expected = {name: sha256 for name, sha256 in expected.items() if name == path.name}
    if not expected:
        raise FileNotFoundError(f"{folder / CHECKSUMS}: no checksum for {path.name}")
    return [
        {
            "path": str(folder / name),
            "expected": sha256,
            "actual": sha256_file(folder / name) if (folder / name).is_file() else "missing",
        }
        for name, sha256 in expected.items()
    ]


def _remove_outdated(target: Path) -> None:
    if target.is_file() and read_checksums(target.parent / CHECKSUMS).get(target.name) == sha256_file(target):
        with disk_errors(target, "remove"):
            target.unlink()


def _pairs(published: Published, names: Mapping[str, str], folder: Path) -> list[tuple[str, Path]]:
    return [(name, folder / output) for name, output in names.items() if name in published.files]


def _copy_atomically(source: Path, target: Path) -> None:
    with disk_errors(target, "write"), replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _update_checksums(folder: Path, new: Mapping[str, str]) -> None:
    path = folder / CHECKSUMS
    before = read_checksums(path)
    after = {name: sha256 for name, sha256 in (before | dict(new)).items() if (folder / name).exists()}
    if after != before:
        with disk_errors(path, "write"):
            write_atomic(path, "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(after.items())))
