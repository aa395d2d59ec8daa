"""Folders that tests share: built once, never half, and never changed unnoticed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.shared_builds import SharedBuilds


def write(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.txt").write_text("a")


def test_workers_that_ask_at_once_get_one_build(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        write(folder)

    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: SharedBuilds(tmp_path).folder("one", build), range(8)))
    assert folders == {tmp_path / "one"} == set(built)
    assert len(built) == 1


def test_what_a_failed_build_left_is_built_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise ValueError("half built")

    builds = SharedBuilds(tmp_path)
    with pytest.raises(ValueError, match="half built"):
        builds.folder("one", fail)
    assert (builds.folder("one", write) / "a.txt").read_text() == "a"


def test_what_tests_wrote_into_a_shared_folder_is_listed(tmp_path: Path) -> None:
    builds = SharedBuilds(tmp_path)
    folder = builds.folder("one", write)
    (folder / "index.sqlite-wal").write_text("opening a store writes this")
    assert builds.changed() == []
    (folder / "a.txt").write_text("another")
    (folder / "b.txt").write_text("b")
    assert builds.changed() == ["one/a.txt", "one/b.txt"]
