"""Shards of cached samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.unit.store.helpers import check_entries, fill, flip, key_of, tensors_of
from trainer_core.errors import DamagedEntries, NonFiniteError
from trainer_core.store import Store, verify_store
from trainer_core.store.entries import ShardInfo
from trainer_core.store.shards import DTYPES, read_header


@pytest.fixture
def again(store: Store) -> Iterator[Store]:
    """The same store, opened by what might be another process."""
    with Store.open(store.root) as opened:
        yield opened


def only_shard(store: Store) -> ShardInfo:
    """The one shard there is."""
    (shard,) = store.entries.shards()
    return shard


def test_entries_come_back_bit_for_bit_in_any_process(store: Store, again: Store) -> None:
    keys = fill(store, range(5))
    assert store.entries.present([*keys, "other"]) == set(keys)
    assert again.entries.present(keys) == set(keys)
    check_entries(again, range(5))
    assert again.entries.notes(keys[:1]) == {keys[0]: {"number": 0}}


@pytest.mark.parametrize("name", sorted(DTYPES.values()))
def test_every_dtype_survives(store: Store, name: str) -> None:
    wanted = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(getattr(torch, name))
    with store.entries.writer("text") as writer:
        writer.add("k", {"odd": torch.ones(3, dtype=torch.uint8), "t": wanted, "empty": wanted[:0]}, {})
    found = store.entries.read(["k"])["k"]
    assert found["t"].dtype == wanted.dtype
    assert torch.equal(found["t"].float(), wanted.float())
    assert found["empty"].shape == (0, 3)


def test_a_shard_is_a_plain_safetensors_file(store: Store) -> None:
    (key,) = fill(store, range(1))
    loaded = load_file(only_shard(store).path)
    assert torch.equal(loaded[f"{key}/latents"], tensors_of(0)["latents"])


def test_the_same_entries_give_the_same_file_in_any_order(store: Store, tmp_path: Path) -> None:
    fill(store, range(6))
    with Store.open(tmp_path / "second") as second:
        with second.entries.writer("latents") as writer:
            for number in reversed(range(6)):
                writer.add(key_of(number), dict(reversed(tensors_of(number).items())), {"number": number})
        mine, other = only_shard(store).path, only_shard(second).path
    assert mine.name == other.name
    assert mine.read_bytes() == other.read_bytes()


def test_tensors_are_copied_when_they_are_added(store: Store) -> None:
    source = torch.arange(12.0).reshape(3, 4)
    with store.entries.writer("latents") as writer:
        writer.add("k", {"t": source.t()}, {})
        source.zero_()
    assert torch.equal(store.entries.read(["k"])["k"]["t"], torch.arange(12.0).reshape(3, 4).t())


def test_reading_copies_nothing_and_writing_into_a_view_leaves_the_file_alone(store: Store) -> None:
    (key,) = fill(store, range(1))
    before = only_shard(store).path.read_bytes()
    first, second = (store.entries.read([key])[key]["latents"] for _ in range(2))
    assert first.data_ptr() == second.data_ptr()
    first.zero_()
    assert only_shard(store).path.read_bytes() == before


def test_tensors_outlive_the_store_and_the_file(store: Store) -> None:
    (key,) = fill(store, range(1))
    tensor = store.entries.read([key])[key]["latents"]
    store.entries.discard([key])
    store.close()
    assert torch.equal(tensor, tensors_of(0)["latents"])


@pytest.mark.parametrize("limit", [{"max_entries": 2}, {"max_bytes": 250}, {"max_seconds": 0}])
def test_a_limit_publishes_a_shard_at_once(store: Store, again: Store, limit: dict[str, int]) -> None:
    with store.entries.writer("latents", **limit) as writer:
        for number in range(2):
            writer.add(key_of(number), tensors_of(number), {})
        assert again.entries.present([key_of(0)]) == {key_of(0)}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_leaving_by_an_exception_keeps_what_was_encoded(store: Store, error: type[BaseException]) -> None:
    with pytest.raises(error), store.entries.writer("latents") as writer:
        writer.add(key_of(0), tensors_of(0), {})
        raise error
    check_entries(store, range(1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(store: Store, value: float) -> None:
    with pytest.raises(NonFiniteError, match="latents of entry bad"), store.entries.writer("latents") as writer:
        writer.add("good", {"latents": torch.ones(2)}, {})
        writer.add("bad", {"latents": torch.tensor([0.0, value])}, {})
    assert store.entries.present(["good", "bad"]) == {"good"}


def test_a_missing_entry_is_named(store: Store) -> None:
    fill(store, range(1))
    with pytest.raises(DamagedEntries, match="other is not in the store") as caught:
        store.entries.read([key_of(0), "other"])
    assert caught.value.keys == ("other",)


def test_discarded_entries_stay_away_without_an_index(store: Store) -> None:
    keys = fill(store, range(4), max_entries=3)
    store.entries.discard(keys[1:2] + keys[3:])
    store.close()
    store.index.path.unlink()
    with Store.open(store.root) as again:
        assert again.entries.present(keys) == {keys[0], keys[2]}
        check_entries(again, range(2, 3))
        assert len(again.entries.shards()) == 1


def test_a_shard_rewritten_by_another_process_is_found(store: Store, again: Store) -> None:
    keys = fill(store, range(4))
    assert again.entries.present(keys) == set(keys)
    store.entries.discard(keys[:1])
    check_entries(again, range(1, 4))


@pytest.mark.parametrize("damaged", [3, 1])
def test_a_copy_in_another_shard_replaces_a_damaged_entry(store: Store, damaged: int) -> None:
    fill(store, range(3))
    fill(store, range(1, 2))
    for shard in store.entries.shards():
        if len(shard.keys) == damaged:
            flip(shard.path, middle_of(shard.path, key_of(1)))
    store.close()
    with Store.open(store.root) as again:
        check_entries(again, range(3))


def middle_of(path: Path, key: str) -> int:
    """Offset of a byte of an entry's latents."""
    tensor = read_header(path).entries[key].tensors["latents"]
    return (tensor.begin + tensor.end) // 2


def test_a_flipped_tensor_byte_is_named_and_only_that_entry_is_lost(
    store: Store, again: Store, caplog: pytest.LogCaptureFixture
) -> None:
    keys = fill(store, range(4))
    path = only_shard(store).path
    flip(path, middle_of(path, keys[2]))
    with pytest.raises(DamagedEntries) as caught:
        again.entries.read(keys)
    assert caught.value.keys == (keys[2],)
    assert str(path) in caught.value.reasons[0]
    assert keys[2] in caught.value.reasons[0]
    assert path.name in caplog.text
    for opened in (again, store):
        assert opened.entries.present(keys) == {keys[0], keys[1], keys[3]}
        check_entries(opened, range(2))
    assert list((store.root / "damaged").glob(f"*{path.name}*"))
    fill(again, range(2, 3))
    check_entries(store, range(4))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), keep_index=st.booleans())
def test_a_flipped_byte_anywhere_in_a_shard_never_gives_a_wrong_tensor(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, keep_index: bool
) -> None:
    root = tmp_path_factory.mktemp("flipped") / "store"
    with Store.open(root) as store:
        keys = fill(store, range(4))
        path = only_shard(store).path
        header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    in_header = data.draw(st.booleans())
    size = path.stat().st_size
    offset = data.draw(st.integers(0, header - 1) if in_header else st.integers(header, size - 1))
    flip(path, offset, data.draw(st.integers(1, 255)))
    if not keep_index:
        (root / "index.sqlite").unlink()
    with Store.open(root) as store:
        with pytest.raises(DamagedEntries) as caught:
            store.entries.read(keys)
        lost = set(caught.value.keys)
        assert len(lost) == (4 if in_header else 1)
        assert store.entries.present(keys) == set(keys) - lost
        for number in range(4):
            if key_of(number) not in lost:
                check_entries(store, range(number, number + 1))
        assert verify_store(store) == []
    assert list((root / "damaged").iterdir())


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: data[:5]])
def test_a_shard_of_another_size_is_never_used(store: Store, again: Store, change: Callable[[bytes], bytes]) -> None:
    keys = fill(store, range(2))
    path = only_shard(store).path
    path.write_bytes(change(path.read_bytes()))
    assert store.entries.present(keys) == set()
    assert again.entries.present(keys) == set()
    assert not path.exists()


def test_a_boolean_that_is_neither_is_damage(store: Store) -> None:
    keys = fill(store, range(2))
    path = only_shard(store).path
    flip(path, read_header(path).entries[keys[0]].tensors["mask"].begin, 2)
    with pytest.raises(DamagedEntries) as caught:
        store.entries.read(keys)
    assert caught.value.keys == (keys[0],)
    check_entries(store, range(1, 2))


def test_damage_after_verification_is_not_given_a_new_digest(store: Store) -> None:
    keys = fill(store, range(3))
    check_entries(store, range(3))
    path = only_shard(store).path
    flip(path, middle_of(path, keys[1]))
    store.entries.discard(keys[:1])
    assert store.entries.present(keys) == {keys[2]}
    check_entries(store, range(2, 3))
