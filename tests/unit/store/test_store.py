"""Opening a store, its version, and disks that refuse."""

from __future__ import annotations

import errno
import logging
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from tests.unit.store.helpers import check_entries, fill, flip, key_of, publish, tensors_of
from trainer_core.errors import StoreError
from trainer_core.store import Store, verify_store
from trainer_core.store.store import VERSION, version_line


def test_importing_the_store_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, trainer_core.store; assert not {'torch', 'numpy', 'safetensors', 'filelock'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_sound_store_has_no_problems(store: Store) -> None:
    fill(store, range(3))
    publish(store, "samples", "k", {"a": b"1"})
    store.refs.set("cat", "samples", "k")
    assert verify_store(store) == []


def test_every_flip_of_the_version_is_named_and_mended(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    path = store.root / "VERSION"
    for offset in range(path.stat().st_size):
        flip(path, offset, 1 << offset % 8)
        assert [problem.path for problem in verify_store(store)] == [path]
        caplog.clear()
        Store.open(store.root).close()
        assert str(path) in caplog.text
        assert path.read_bytes() == version_line(VERSION)


def test_a_newer_store_is_refused(store: Store) -> None:
    (store.root / "VERSION").write_bytes(version_line(VERSION + 1))
    with pytest.raises(StoreError, match=r"VERSION: this store has version 2.*Update"):
        Store.open(store.root)


def test_a_root_that_cannot_be_made_names_path_and_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"file/store.*LORA_ASSETS_HOME"):
        Store.open(tmp_path / "file" / "store")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses_is_an_error_with_a_fix_and_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fill(store, range(1))
    fix = {errno.ENOSPC: "Free some space", errno.EROFS: "Make it writable"}[number]

    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StoreError, match=fix):
            fill(store, range(1, 2))
        with pytest.raises(StoreError, match=fix):
            publish(store, "samples", "k", {"a": b"1"})
        with pytest.raises(StoreError, match=fix):
            store.refs.set("cat", "samples", "k")
    assert list((store.root / "tmp").iterdir()) == []
    assert store.entries.present([key_of(0), key_of(1)]) == {key_of(0)}
    assert store.objects.get("samples", "k") is None
    assert store.refs.all() == {}


def test_a_stage_that_fills_the_disk_gets_the_same_error(store: Store) -> None:
    with pytest.raises(StoreError, match=r"write samples.*Free some space"), store.objects.staging("samples", "k"):
        raise OSError(errno.ENOSPC, "No space left on device")


def _fill_a_small_disk(root: Path) -> int:
    """What a child does under a limit on file sizes; returns how many writes were refused properly."""
    refused = 0
    with Store.open(root) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        for attempt in (
            lambda: _write_large(store),
            lambda: publish(store, "samples", "k", {"a": b"x" * 400_000}),
            lambda: store.index.remember("picture", {key_of(n): "x" * 2000 for n in range(500)}),
        ):
            try:
                attempt()
            except StoreError as error:
                refused += str(root) in str(error)
    return refused


def _write_large(store: Store) -> None:
    with store.entries.writer("latents") as writer:
        writer.add("large", {"t": torch.zeros(100_000)}, {})


def test_files_that_cannot_grow_are_errors_that_name_the_store(store: Store) -> None:
    fill(store, range(2))
    store.close()
    # A process of its own: a fork of one with torch's threads would wait for threads that it does not have.
    code = "import sys; from pathlib import Path; from tests.unit.store.test_store import _fill_a_small_disk as fill; "
    command = [sys.executable, "-c", code + "sys.exit(fill(Path(sys.argv[1])))", str(store.root)]
    assert subprocess.run(command, cwd=Path(__file__).parents[3], check=False).returncode == 3
    with Store.open(store.root) as again:
        assert verify_store(again) == []
        check_entries(again, range(2))
        assert again.entries.present(["large"]) == set()


def test_a_failure_while_leaving_does_not_hide_the_first_error(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(KeyboardInterrupt), store.entries.writer("latents") as writer:
        writer.add(key_of(0), tensors_of(0), {})
        raise KeyboardInterrupt
    assert "Free some space" in caplog.text


def test_a_lock_excludes_other_threads_and_says_once_that_it_waits(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[str] = []

    def second() -> None:
        with store.lock("a key/with: odd characters"):
            events.append("second")

    caplog.set_level(logging.INFO)
    thread = threading.Thread(target=second)
    with store.lock("a key/with: odd characters"):
        thread.start()
        thread.join(0.3)
        events.append("first")
    thread.join()
    assert events == ["first", "second"]
    assert caplog.text.count("waiting for another process") == 1


def test_locks_of_different_names_do_not_wait(store: Store) -> None:
    with store.lock("a"), store.lock("b"), store.lock("x" * 500):
        pass
