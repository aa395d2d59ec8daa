from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.unit.cli.support import Project, call, told
from trainer_core.store import Store

KEYS = {
    "store",
    "dry_run",
    "objects_removed",
    "shards_removed",
    "shards_rewritten",
    "entries_removed",
    "runs_removed",
    "temp_removed",
    "bytes_freed",
}


@pytest.fixture
def leftover(project: Project) -> Path:
    """An old temporary file in the project's store."""
    Store.open(project.home / "store").close()
    path = project.home / "store" / "tmp" / "left-behind"
    path.write_bytes(b"x" * 1000)
    os.utime(path, (time.time() - 9e6,) * 2)
    return path


def test_a_dry_run_tells_and_removes_nothing(leftover: Path) -> None:
    answer = told(call("gc", "cats", "--dry-run", "--json"))
    assert set(answer) == KEYS
    assert (answer["dry_run"], answer["temp_removed"], answer["bytes_freed"]) == (True, 1, 1000)
    assert leftover.exists()


@pytest.mark.parametrize("arguments", [["cats"], [], ["--home", ".lora-assets"]])
def test_a_run_removes_what_it_tells(leftover: Path, arguments: list[str]) -> None:
    result = call("gc", *arguments)
    assert result.exit_code == 0, result.stderr
    assert "1 temporary files" in result.stdout
    assert not leftover.exists()


def test_what_is_younger_than_the_grace_stays(leftover: Path) -> None:
    assert told(call("gc", "--grace", "1e9", "--json"))["temp_removed"] == 0
    assert leftover.exists()


def test_a_folder_without_a_store_stays_without_one(tmp_path: Path) -> None:
    result = call("gc", "--home", tmp_path)
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_config_and_home_together_are_wrong_usage(project: Project) -> None:
    assert call("gc", "cats", "--home", project.home).exit_code == 2
