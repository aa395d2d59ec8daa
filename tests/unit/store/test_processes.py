"""Several processes at once, and processes that are killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from tests.unit.store.helpers import check_entries, fill, key_of, publish, tensors_of
from trainer_core.store import Refs, Store, collect, verify_store

# Not plain fork: a child of a process with torch's threads would wait for threads that it does not have.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "tests.unit.store.helpers"])


def start(target: Any, *args: Any) -> BaseProcess:
    """Run a function in a child."""
    child = CONTEXT.Process(target=target, args=args)
    child.start()
    return child


def work_until_killed(root: Path, first: int) -> None:
    """Write shards, objects, refs and facts as fast as the disk allows."""
    with Store.open(root) as store:
        for number in range(first, first + 100_000):
            with store.entries.writer("latents", max_entries=3) as writer:
                for part in range(5):
                    writer.add(key_of(number * 5 + part), tensors_of(number * 5 + part), {})
            publish(store, "samples", f"k{number}", {"a.bin": b"%d" % number * 5000, "b/c.txt": b"c"})
            store.refs.set("cat", "samples", f"k{number}")
            store.index.remember("number", {str(number): number})


def test_a_killed_process_leaves_nothing_that_looks_like_a_result(tmp_path: Path) -> None:
    root = tmp_path / "store"
    Store.open(root).close()
    generator = random.Random(0)
    for attempt in range(6):
        first = attempt * 100_000
        child = start(work_until_killed, root, first)
        while not (root / "objects" / "samples" / f"k{first}").exists():
            assert child.is_alive()
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 0.15))
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        with Store.open(root) as store:
            assert verify_store(store) == []
            for shard in store.entries.shards():
                store.entries.read(shard.keys)
            check_entries(store, range(first * 5, first * 5 + 5))
            key = store.refs.get("cat", "samples")
            assert key is not None
            last = store.objects.get("samples", key)
            assert last is not None
            assert last.file("a.bin").read_bytes() == b"%d" % int(key[1:]) * 5000
            facts = store.index.facts("number", map(str, range(first, first + 1000)))
            assert all(int(name) == value for name, value in facts.items())
    assert not (root / "damaged").exists()
    with Store.open(root) as store:
        collect(store, dry_run=False, grace_seconds=0)
        assert list((root / "tmp").iterdir()) == []
        assert len(store.objects.all()) == 1
        assert verify_store(store) == []


def get_or_make(root: Path, made: Path) -> None:
    """What a stage does: under the lock, reuse the result or make it."""
    with Store.open(root) as store, store.lock("samples/k"):
        if store.objects.get("samples", "k") is None:
            with made.open("a") as file:
                file.write("made\n")
            time.sleep(0.3)
            publish(store, "samples", "k", {"a": b"1"})


def test_of_two_processes_with_one_key_one_works_and_the_other_reuses(tmp_path: Path) -> None:
    root, made = tmp_path / "store", tmp_path / "made"
    children = [start(get_or_make, root, made) for _ in range(3)]
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    assert made.read_text() == "made\n"
    with Store.open(root) as store:
        assert verify_store(store) == []


def publish_often(root: Path, seed: int) -> None:
    """Publish the same keys as every other child, without a lock."""
    with Store.open(root) as store:
        for number in range(20):
            assert publish(store, "samples", f"k{number}", {"a": b"%d" % number}).file("a").exists()
            fill(store, range(number, number + 3))
            store.index.remember("number", {f"{seed}-{n}": n for n in range(number)})
            store.refs.set("cat", "samples", f"k{number}")


def test_processes_that_write_the_same_at_once_do_not_disturb_each_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "store"
    children = [start(publish_often, root, seed) for seed in range(3)]
    while any(child.is_alive() for child in children):
        # Readers see the old ref or the new one, never half of one.
        assert Refs(root).damaged() == []
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    with Store.open(root) as store:
        assert verify_store(store) == []
        check_entries(store, range(22))
        assert len(store.objects.all()) == 20
        for seed in range(3):
            assert len(store.index.facts("number", [f"{seed}-{n}" for n in range(19)])) == 19
    assert not (root / "damaged").exists()
    assert caplog.text == ""


@pytest.mark.parametrize("lost", [True, False])
def test_a_process_that_holds_an_index_another_one_replaced_goes_on(tmp_path: Path, lost: bool) -> None:
    with Store.open(tmp_path / "store") as first:
        fill(first, range(2))
        first.index.remember("number", {"1": 1})
        if lost:
            for part in first.root.glob("index.sqlite*"):
                part.unlink()
        else:
            first.index._begin_anew("a test")
        with Store.open(first.root) as second:
            second.index.remember("number", {"2": 2})
            check_entries(second, range(2))
            first.index.remember("number", {"3": 3})
            fill(first, range(2, 4))
            check_entries(second, range(4))
