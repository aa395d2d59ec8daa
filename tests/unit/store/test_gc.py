"""Collecting garbage: what goes, and above all what stays."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.unit.store.helpers import check_entries, fill, flip, key_of, make_old, publish
from trainer_core.errors import IntegrityError, StoreError
from trainer_core.store import GcReport, Store, collect, verify_store


def latents(store: Store, key: str, numbers: range) -> None:
    """Publish an object that uses these entries."""
    items = {f"cat/{number}.png": {"key": key_of(number), "parts": {"latents": key_of(number)}} for number in numbers}
    publish(store, "cached_latents", key, {"items.json": json.dumps(items).encode()})


def tree(root: Path) -> set[Path]:
    """All that matters below the root; locks and index come and go."""
    return {path for path in root.rglob("*") if path.parent.name != "locks" and "index" not in path.name}


def test_what_no_ref_names_goes_and_the_rest_stays(store: Store) -> None:
    fill(store, range(4))
    fill(store, range(4, 8))
    latents(store, "used", range(4))
    latents(store, "dropped", range(4, 8))
    store.refs.set("cat", "cached_latents", "used")
    make_old(store.root)
    report = collect(store, dry_run=False)
    assert (report.objects_removed, report.shards_removed, report.entries_removed) == (1, 1, 4)
    assert report.bytes_freed > 0
    assert store.objects.all() == [("cached_latents", "used")]
    check_entries(store, range(4))
    assert store.entries.present([key_of(n) for n in range(8)]) == {key_of(n) for n in range(4)}
    assert collect(store, dry_run=False) == GcReport()


def test_a_dry_run_tells_the_same_and_touches_nothing(store: Store) -> None:
    fill(store, range(8))
    latents(store, "dropped", range(8))
    latents(store, "used", range(2))
    store.refs.set("cat", "cached_latents", "used")
    (store.root / "runs" / "old").mkdir()
    (store.root / "tmp" / "left~over").write_bytes(b"x")
    make_old(store.root, 3600 * 200)
    before = tree(store.root)
    report = collect(store, dry_run=True)
    assert tree(store.root) == before
    assert report == collect(store, dry_run=False)
    assert min(report.objects_removed, report.shards_rewritten, report.runs_removed, report.temp_removed) == 1


def test_whatever_is_younger_than_the_grace_stays(store: Store) -> None:
    fill(store, range(2))
    latents(store, "new", range(2))
    (store.root / "runs" / "new").mkdir()
    (store.root / "tmp" / "elsewhere~1~x").write_bytes(b"x")
    assert collect(store, dry_run=False) == GcReport()
    report = collect(store, dry_run=False, grace_seconds=0)
    assert report.objects_removed == report.shards_removed == report.runs_removed == report.temp_removed == 1


def test_what_was_just_asked_for_counts_as_young(store: Store) -> None:
    keys = fill(store, range(2))
    latents(store, "old", range(2))
    make_old(store.root)
    assert store.entries.present(keys)
    assert store.objects.get("cached_latents", "old") is not None
    assert collect(store, dry_run=False) == GcReport()


def test_entries_of_a_young_object_that_no_ref_names_yet_stay(store: Store) -> None:
    fill(store, range(2))
    make_old(store.root)
    latents(store, "new", range(2))
    assert collect(store, dry_run=False) == GcReport()


def test_a_mostly_dead_shard_is_rewritten_and_its_entries_survive_bit_for_bit(store: Store) -> None:
    keys = fill(store, range(10))
    latents(store, "used", range(3))
    store.refs.set("cat", "cached_latents", "used")
    make_old(store.root)
    (before,) = store.entries.shards()
    report = collect(store, dry_run=False)
    (after,) = store.entries.shards()
    assert (report.shards_rewritten, report.entries_removed) == (1, 7)
    assert after.bytes < before.bytes
    assert store.entries.notes(keys[:3]) == {keys[number]: {"number": number} for number in range(3)}
    store.close()
    store.index.path.unlink()
    with Store.open(store.root) as again:
        assert again.entries.present(keys) == set(keys[:3])
        check_entries(again, range(3))
        assert verify_store(again) == []


def test_a_mostly_living_shard_is_left_alone(store: Store) -> None:
    fill(store, range(10))
    latents(store, "used", range(6))
    store.refs.set("cat", "cached_latents", "used")
    make_old(store.root)
    assert collect(store, dry_run=False) == GcReport()


@pytest.mark.parametrize("run", [{"runs": "mine"}, {"run": "mine"}, {"runs": ["mine"]}])
def test_metadata_can_name_entries_and_runs(store: Store, run: dict[str, object]) -> None:
    keys = fill(store, range(2))
    publish(store, "lora_checkpoint", "k", {"a": b"1"}, {"entries": keys, **run})
    store.refs.set("cat", "lora_checkpoint", "k")
    for name in ("mine", "other"):
        (store.root / "runs" / name).mkdir()
    make_old(store.root, 3600 * 200)
    assert collect(store, dry_run=False).runs_removed == 1
    assert (store.root / "runs" / "mine").is_dir()
    check_entries(store, range(2))


def test_an_unfinished_run_waits_a_week_for_its_owner(store: Store) -> None:
    (store.root / "runs" / "k").mkdir()
    make_old(store.root, 3600 * 160)
    assert collect(store, dry_run=False) == GcReport()


def test_runs_stay_while_a_stage_is_at_work(store: Store) -> None:
    (store.root / "runs" / "f00d").mkdir()
    make_old(store.root, 3600 * 200)
    with store.lock("lora_checkpoint-cafe"):
        assert collect(store, dry_run=False, grace_seconds=0) == GcReport()
    assert collect(store, dry_run=False).runs_removed == 1


def test_the_temporary_files_of_a_living_process_stay(store: Store) -> None:
    with store.objects.staging("samples", "k") as staged:
        os.utime(staged, (time.time() - 90_000,) * 2)
        assert collect(store, dry_run=False) == GcReport()
        assert staged.is_dir()


def test_damaged_things_are_kept_for_a_month(store: Store) -> None:
    flip(publish(store, "samples", "k", {"a": b"1"}).path / "MANIFEST.json", 3)
    assert store.objects.get("samples", "k") is None
    make_old(store.root, 3600 * 700)
    assert collect(store, dry_run=False) == GcReport()
    make_old(store.root, 3600 * 800)
    assert collect(store, dry_run=False).temp_removed == 1


def test_a_damaged_ref_stops_the_collection(store: Store) -> None:
    fill(store, range(2))
    latents(store, "used", range(2))
    store.refs.set("cat", "cached_latents", "used")
    make_old(store.root)
    flip(store.refs.path("cat", "cached_latents"), 20)
    before = tree(store.root)
    with pytest.raises(StoreError, match=r"cached_latents\.json.*Run their projects again"):
        collect(store, dry_run=False)
    assert tree(store.root) == before


@pytest.mark.parametrize("name", ["items.json", "MANIFEST.json"])
def test_a_damaged_object_in_use_stops_the_collection(store: Store, name: str) -> None:
    fill(store, range(2))
    latents(store, "used", range(2))
    store.refs.set("cat", "cached_latents", "used")
    make_old(store.root)
    flip(store.objects.path("cached_latents", "used") / name, 20)
    before = tree(store.root)
    with pytest.raises(IntegrityError, match=name):
        collect(store, dry_run=False)
    assert tree(store.root) == before


def test_entries_stay_while_the_object_of_a_ref_is_gone(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    fill(store, range(2))
    store.refs.set("cat", "cached_latents", "gone")
    make_old(store.root)
    assert collect(store, dry_run=False) == GcReport()
    assert "cat uses it, but it is gone" in caplog.text
