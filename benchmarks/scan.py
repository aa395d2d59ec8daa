"""Change detection: how long it takes to see that 100,000 files are as they were."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from pathlib import Path

from benchmarks._common import Figure, Goal, Result, from_rounds
from trainer_core.config.groups import CaptionConfig, DatasetConfig
from trainer_core.data.discovery.discover import discover, folder_fingerprint
from trainer_core.data.discovery.discovery_types import PictureFile
from trainer_core.store.index import Index
from trainer_core.types import FileStat

GOAL = Goal(1.0, "at most")
_PNG = b"\x89PNG\r\n\x1a\n"
_FOLDERS = 50


def run(quick: bool) -> Result:
    """Write pictures with captions, hash them once, then time passes over the unchanged folder."""
    pictures, rounds = (5_000, 5) if quick else (50_000, 7)
    # As the command line does: most of what a scan makes lives until the end.
    gc.set_threshold(100_000, 20, 20)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_files(root / "data", pictures)
        dataset = DatasetConfig(path=root / "data", held_out=0.0)
        (root / "store" / "locks").mkdir(parents=True)
        # Younger files are not trusted, as a second change could leave the same stat.
        time.sleep(0.3)
        first = one_pass(dataset, root / "store")
        passes, bare = [], []
        for _ in range(rounds):
            passes.append(one_pass(dataset, root / "store"))
            bare.append(_only_stat(root / "data"))
        began = time.perf_counter()
        folder_fingerprint([dataset])
        sensor = time.perf_counter() - began
    total, discovered, looked_up, cpu = (list(column) for column in zip(*passes, strict=True))
    files = 2 * pictures
    return Result(
        "scan",
        f"Change detection over {files:,} files",
        (
            from_rounds("unchanged pass: discover + stat + look up", total, "s", GOAL, f"at {files:,} files"),
            from_rounds("the same in CPU time", cpu, "s", note="less moved by other work on these cores"),
            from_rounds("of it: discover, which lists and stats", discovered, "s"),
            from_rounds("of it: look up hashes in the index", looked_up, "s"),
            from_rounds("os.scandir and stat alone, in the same rounds", bare, "s"),
            Figure("first pass, which hashes every file", first[0], "s"),
            Figure("the sensor's fingerprint (names and stat)", sensor, "s"),
        ),
        {"pictures": pictures, "files": files, "bytes a picture": 1024, "rounds": rounds, "load": os.getloadavg()[0]},
    )


def write_files(root: Path, pictures: int) -> None:
    """Write files of 1 KB that begin as a PNG does, all different, each with a caption."""
    for number in range(pictures):
        folder = root / f"{number % _FOLDERS:03d}"
        if number < _FOLDERS:
            folder.mkdir(parents=True)
        (folder / f"{number:06d}.png").write_bytes(_PNG + f"{number:016d}".encode() * 63 + b"\0" * 8)
        (folder / f"{number:06d}.txt").write_text(f"picture number {number}")


def one_pass(dataset: DatasetConfig, store: Path) -> tuple[float, float, float, float]:
    """Return seconds of a pass with a newly opened index: in all, of discovery, of the look-up; CPU seconds in all."""
    began, cpu = time.perf_counter(), time.process_time()
    found = discover(dataset, CaptionConfig())
    discovered = time.perf_counter()
    index = Index(store)
    stats = _stats(found.pictures)
    hashes = index.file_hashes(stats)
    done, used = time.perf_counter(), time.process_time() - cpu
    index.close()
    assert len(hashes) == len(stats) == 2 * len(found.pictures), "every picture has a caption, and all are readable"
    return done - began, discovered - began, done - discovered, used


def _only_stat(root: Path) -> float:
    """Return the seconds of the least that a pass can do."""
    began = time.perf_counter()
    for folder in os.scandir(root):
        for entry in os.scandir(folder.path):
            entry.stat()
    return time.perf_counter() - began


def _stats(pictures: tuple[PictureFile, ...]) -> dict[str, FileStat]:
    """Return the stat of pictures and captions, as a scan puts it together."""
    stats = {picture.file: picture.stat for picture in pictures}
    for picture in pictures:
        if picture.caption_file is not None and picture.caption_stat is not None:
            stats[picture.caption_file] = picture.caption_stat
    return stats
