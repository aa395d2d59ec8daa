"""Which training runs may go."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer_core.store import Store
from trainer_core.store.runs import claim, free_space, removable, remove_idle, runs_of


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "store")
    yield opened
    opened.close()


def run(store: Store, name: str, projects: tuple[str, ...] = ("cats",), size: int = 1000, days: float = 0) -> None:
    folder = store.root / "runs" / name / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"x" * size)
    for project in projects:
        claim(store.root, name, project)
    then = time.time() - days * 86_400
    for path in folder.parent.rglob("*"):
        os.utime(path, (then, then))


def publish(store: Store, project: str, name: str) -> None:
    with store.objects.staging("lora_checkpoint", f"key{name}") as staging:
        (staging / "x").write_bytes(b"x")
        store.objects.publish(
            "lora_checkpoint", f"key{name}", staging, data_version="1", recipe={}, metadata={"run": name}
        )
    store.refs.set(project, "lora_checkpoint", f"key{name}")


def names(store: Store) -> set[str]:
    return {path.name for path in (store.root / "runs").iterdir()}


def test_runs_are_told_by_project_and_the_idlest_comes_first(store: Store) -> None:
    run(store, "a", days=1)
    run(store, "b", days=3)
    run(store, "c", ("dogs",))
    assert [one.path.name for one in runs_of(store.root, "cats")] == ["b", "a"]
    assert runs_of(store.root, "cats")[0].bytes == 1000


def test_another_projects_a_shared_a_needed_and_a_running_one_may_not_go(store: Store) -> None:
    for name, projects in {"own": ("cats",), "dogs": ("dogs",), "shared": ("cats", "dogs"), "nobody": ()}.items():
        run(store, name, projects)
    run(store, "needed")
    publish(store, "cats", "needed")
    run(store, "running")
    run(store, "kept")
    with store.lock("run-running"):
        assert [one.path.name for one in removable(store, "cats", ("kept",))] == ["own"]


def test_nothing_goes_where_a_result_cannot_be_read(store: Store) -> None:
    run(store, "own", days=9)
    store.refs.set("dogs", "lora_checkpoint", "gone")
    assert removable(store, "cats") == []
    assert remove_idle(store, "cats", 1) == []


def test_runs_that_were_idle_for_too_long_go(store: Store) -> None:
    run(store, "old", days=10)
    run(store, "young", days=2)
    assert [one.path.name for one in remove_idle(store, "cats", 5)] == ["old"]
    assert names(store) == {"young"}


def test_no_more_goes_than_must(store: Store) -> None:
    run(store, "a", days=3)
    run(store, "b", days=2)
    run(store, "c", days=1)
    removed, missing = free_space(store, "cats", 3500, "new", 1500)
    assert ([one.path.name for one in removed], missing) == (["a"], 0)
    assert names(store) == {"b", "c"}


def test_nothing_goes_where_it_would_not_be_enough(store: Store) -> None:
    run(store, "a", days=3)
    run(store, "needed", size=5000)
    publish(store, "cats", "needed")
    removed, missing = free_space(store, "cats", 5500, "new", 1000)
    assert (removed, missing) == ([], 500)
    assert names(store) == {"a", "needed"}


def test_a_runs_own_files_count_within_what_it_needs(store: Store) -> None:
    run(store, "new", size=900)
    assert free_space(store, "cats", 1000, "new", 1000) == ([], 0)
