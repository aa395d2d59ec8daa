"""The index: what it remembers, and that it never claims what is not so."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.store.helpers import check_entries, fill, flip, key_of, stat_of
from trainer_core.errors import StoreError
from trainer_core.store import Store, index
from trainer_core.types import FileStat


def sha(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def make_files(folder: Path, count: int) -> dict[str, FileStat]:
    """Files old enough to be remembered."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(b"%d" % number)
    time.sleep(0.12)
    return {str(path): stat_of(path) for path in sorted(folder.iterdir())}


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose bytes were read."""
    seen: list[Path] = []
    real = index.sha256_file

    def spy(path: Path) -> str:
        seen.append(path)
        return real(path)

    monkeypatch.setattr(index, "sha256_file", spy)
    return seen


def test_only_files_whose_stat_changed_are_read_again(store: Store, tmp_path: Path, hashed: list[Path]) -> None:
    files = make_files(tmp_path / "pictures", 5)
    truth = {path: sha(Path(path).read_bytes()) for path in files}
    assert store.index.file_hashes(files) == truth
    assert len(hashed) == 5
    hashed.clear()
    changed = tmp_path / "pictures" / "3.png"
    changed.write_bytes(b"x")
    files[str(changed)] = stat_of(changed)
    assert store.index.file_hashes(files) == {**truth, str(changed): sha(b"x")}
    assert hashed == [changed]


def test_a_second_process_knows_what_the_first_hashed(store: Store, tmp_path: Path, hashed: list[Path]) -> None:
    files = make_files(tmp_path / "pictures", 3)
    truth = store.index.file_hashes(files)
    hashed.clear()
    with Store.open(store.root) as other:
        assert other.index.file_hashes(files) == truth
    assert hashed == []


def test_a_replacement_that_keeps_size_and_mtime_is_noticed(store: Store, tmp_path: Path) -> None:
    files = make_files(tmp_path / "pictures", 1)
    store.index.file_hashes(files)
    path = Path(next(iter(files)))
    path.write_bytes(b"9")
    os.utime(path, ns=(0, files[str(path)].mtime_ns))
    assert stat_of(path).mtime_ns == files[str(path)].mtime_ns
    assert store.index.file_hashes({str(path): stat_of(path)}) == {str(path): sha(b"9")}


def test_a_file_written_a_moment_ago_is_hashed_again_next_time(
    store: Store, tmp_path: Path, hashed: list[Path]
) -> None:
    path = tmp_path / "new.png"
    path.write_bytes(b"1")
    files = {str(path): stat_of(path)}
    store.index.file_hashes(files)
    store.index.file_hashes(files)
    assert len(hashed) == 2


def test_a_digest_is_not_remembered_for_a_stat_that_was_stale(store: Store, tmp_path: Path, hashed: list[Path]) -> None:
    files = make_files(tmp_path / "pictures", 1)
    path = next(iter(files))
    Path(path).write_bytes(b"newer")
    assert store.index.file_hashes(files) == {path: sha(b"newer")}
    hashed.clear()
    store.index.file_hashes(files)
    assert len(hashed) == 1


def test_unreadable_files_are_left_out(store: Store, tmp_path: Path) -> None:
    files = make_files(tmp_path / "pictures", 2)
    (tmp_path / "pictures" / "0.png").unlink()
    assert list(store.index.file_hashes(files)) == [str(tmp_path / "pictures" / "1.png")]


def test_a_name_that_is_not_utf8_is_hashed(store: Store, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(b"1")
    assert store.index.file_hashes({str(path): stat_of(path)}) == {str(path): sha(b"1")}


def test_hashing_that_is_interrupted_keeps_what_was_done(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed: list[Path]
) -> None:
    files = make_files(tmp_path / "pictures", 6)
    spy = index.sha256_file

    def interrupt(path: Path) -> str:
        if path.name == "4.png":
            raise KeyboardInterrupt
        return spy(path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(index, "sha256_file", interrupt)
        store.index.file_hashes(files, threads=1)
    hashed.clear()
    store.index.file_hashes(files)
    assert {path.name for path in hashed} <= {"4.png", "5.png"}


def test_facts_come_back_by_kind(store: Store) -> None:
    store.index.remember("picture", {"a": {"width": 3, "notes": ["é"]}, "b": None})
    store.index.remember("other", {"a": 1})
    assert store.index.facts("picture", ["a", "b", "c"]) == {"a": {"width": 3, "notes": ["é"]}, "b": None}
    store.index.remember("picture", {"a": 2})
    assert store.index.facts("picture", ["a"]) == {"a": 2}


def test_a_row_that_does_not_match_its_checksum_is_absent(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.index.remember("picture", {"a": 1, "b": 2})
    store.index._connect().execute("UPDATE facts SET value = '7' WHERE key = 'a'")
    assert store.index.facts("picture", ["a", "b"]) == {"b": 2}
    assert "index.sqlite" in caplog.text
    assert store.index.check() == ["1 rows do not match their checksum"]
    store.index.remember("picture", {"a": 1})
    assert store.index.check() == []


def test_a_file_that_is_no_database_is_set_aside_and_begun_anew(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    keys = fill(store, range(3))
    store.close()
    store.index.path.write_bytes(b"not a database, whatever its name says" * 100)
    with Store.open(store.root) as again:
        assert again.entries.present(keys) == set(keys)
        assert again.index.check() == []
    assert list((store.root / "damaged").glob("index.sqlite.*"))
    assert "index.sqlite is damaged" in caplog.text


def test_a_damaged_schema_that_cannot_even_be_quoted_is_damage(store: Store) -> None:
    store.index.remember("picture", {"a": 1})
    store.close()
    raw = store.index.path.read_bytes()
    store.index.path.write_bytes(raw.replace(b"WITHOUT ROWID", b"WITHOUT ROW\xc9D"))
    store.index.remember("picture", {"b": 2})
    assert store.index.facts("picture", ["a", "b"]) == {"b": 2}


def test_tables_of_another_version_are_begun_anew(store: Store) -> None:
    store.index._connect().execute("ALTER TABLE facts RENAME COLUMN value TO text")
    store.close()
    with Store.open(store.root) as again:
        again.index.remember("picture", {"a": 1})
        assert again.index.facts("picture", ["a"]) == {"a": 1}


def test_an_index_that_cannot_be_opened_names_path_and_fix(store: Store) -> None:
    store.index.path.mkdir()
    with pytest.raises(StoreError, match=r"index\.sqlite.*LORA_ASSETS_HOME"):
        store.index.facts("picture", ["a"])


def test_a_connection_is_not_used_across_a_fork(store: Store) -> None:
    store.index.remember("picture", {"a": 1})
    parents = store.index._connect()
    child = os.fork()
    if child == 0:
        own = store.index._connect() is not parents
        store.index.remember("picture", {"b": 2})
        store.close()
        os._exit(0 if own and store.index.facts("picture", ["a"]) == {"a": 1} else 1)
    assert os.waitpid(child, 0)[1] == 0
    store.index.remember("picture", {"c": 3})
    assert store.index.facts("picture", ["a", "b", "c"]) == {"a": 1, "b": 2, "c": 3}


@pytest.fixture(scope="module", params=["closed", "killed"])
def template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A store with some hundred rows of each kind: closed, or left by a killed process with its WAL beside it."""
    base = tmp_path_factory.mktemp("template")
    files = make_files(base / "pictures", 150)
    with Store.open(base / "store") as store:
        fill(store, range(24), max_entries=2)
        truth = store.index.file_hashes(files)
        store.index.remember("picture", {key_of(number): {"width": number} for number in range(200)})
        if request.param == "killed":
            shutil.copytree(base / "store", base / "killed")
    return base, truth


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_byte_anywhere_in_the_index_never_gives_a_wrong_answer(
    template: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    base, truth = template
    source = base / "killed" if (base / "killed").exists() else base / "store"
    root = tmp_path_factory.mktemp("flipped") / "store"
    shutil.copytree(source, root)
    target = data.draw(st.sampled_from(sorted(root.glob("index.sqlite*"))))
    # The first page holds the header and the schema: look there as often as everywhere else together.
    size = target.stat().st_size
    offset = data.draw(st.integers(0, min(4095, size - 1)) | st.integers(0, size - 1))
    flip(target, offset, data.draw(st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128]) | st.integers(1, 255)))
    files = {path: stat_of(Path(path)) for path in truth}
    for _ in range(2):
        with Store.open(root) as store:
            assert store.entries.present([key_of(number) for number in range(30)]) == {key_of(n) for n in range(24)}
            check_entries(store, range(24))
            assert store.index.file_hashes(files) == truth
            facts = store.index.facts("picture", [key_of(number) for number in range(210)])
            assert facts.items() <= {key_of(number): {"width": number} for number in range(200)}.items()
            store.index.remember("picture", {key_of(number): {"width": number} for number in range(100)})
            store.index.remember("new", {"x" * number: number for number in range(1, 50)})
            assert store.index.facts("new", ["x", "xx"]) == {"x": 1, "xx": 2}
    shutil.rmtree(root.parent)


def test_a_lost_index_costs_a_scan_and_no_entry(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    keys = fill(store, range(10), max_entries=3)
    store.close()
    for part in store.root.glob("index.sqlite*"):
        part.unlink()
    with caplog.at_level(logging.WARNING), Store.open(store.root) as again:
        assert again.entries.present(keys) == set(keys)
        check_entries(again, range(10))
    assert caplog.text == ""
