"""Published results and refs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.store.helpers import flip, publish
from trainer_core.errors import IntegrityError, StoreError
from trainer_core.store import Store, verify_store

FILES = {"lora.safetensors": b"weights" * 50, "samples/0001.png": b"picture"}


def test_an_object_comes_back_with_all_it_was_given(store: Store) -> None:
    published = publish(store, "lora_checkpoint", "k1", FILES, {"steps": 3})
    with Store.open(store.root) as again:
        found = again.objects.get("lora_checkpoint", "k1")
    assert found == published
    assert found is not None
    assert found.metadata == {"steps": 3}
    assert {name: found.file(name).read_bytes() for name in found.files} == FILES
    assert found.verify() == []
    assert store.objects.get("lora_checkpoint", "k2") is None
    assert list((store.root / "tmp").iterdir()) == []


def test_nothing_is_visible_before_it_is_published(store: Store) -> None:
    with pytest.raises(RuntimeError), store.objects.staging("samples", "k") as staged:
        (staged / "half.png").write_bytes(b"half")
        assert store.objects.get("samples", "k") is None
        raise RuntimeError
    assert store.objects.all() == []
    assert list((store.root / "tmp").iterdir()) == []


def test_an_intact_object_wins_over_a_second_one(store: Store) -> None:
    first = publish(store, "samples", "k", {"a": b"first"})
    assert publish(store, "samples", "k", {"a": b"second"}) == first
    assert first.file("a").read_bytes() == b"first"


def test_a_flipped_byte_is_an_integrity_error_and_the_next_run_makes_it_anew(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    published = publish(store, "lora_checkpoint", "k", FILES)
    path = published.path / "lora.safetensors"
    flip(path, 100)
    assert [problem.path for problem in published.verify()] == [path]
    with pytest.raises(IntegrityError) as caught:
        published.file("lora.safetensors")
    wanted = published.files["lora.safetensors"].sha256
    assert (caught.value.path, caught.value.expected) == (path, wanted)
    assert caught.value.actual not in ("", wanted)
    assert "Run the project again" in str(caught.value)
    assert str(published.path) in caplog.text
    assert store.objects.get("lora_checkpoint", "k") is None
    assert publish(store, "lora_checkpoint", "k", FILES).file("lora.safetensors").exists()


def test_publishing_over_a_damaged_object_replaces_it(store: Store) -> None:
    flip(publish(store, "samples", "k", FILES).path / "samples/0001.png", 0)
    assert publish(store, "samples", "k", FILES).verify() == []


@pytest.mark.parametrize("damage", ["shorter", "gone", "no manifest"])
def test_an_incomplete_object_is_absent(store: Store, damage: str) -> None:
    path = publish(store, "samples", "k", FILES).path
    if damage == "shorter":
        (path / "lora.safetensors").write_bytes(b"")
    else:
        (path / ("lora.safetensors" if damage == "gone" else "MANIFEST.json")).unlink()
    assert len(verify_store(store)) == 1
    assert store.objects.get("samples", "k") is None
    assert list((store.root / "damaged").iterdir())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_byte_anywhere_in_a_manifest_makes_the_object_absent(
    store: Store, caplog: pytest.LogCaptureFixture, data: st.DataObject
) -> None:
    manifest = publish(store, "samples", "k", FILES, {"note": "ü", "ratio": 0.5}).path / "MANIFEST.json"
    flip(manifest, data.draw(st.integers(0, manifest.stat().st_size - 1)), data.draw(st.integers(1, 255)))
    assert [problem.path for problem in verify_store(store)] == [manifest]
    caplog.clear()
    assert store.objects.get("samples", "k") is None
    assert str(manifest) in caplog.text
    assert not manifest.exists()


def test_a_manifest_from_elsewhere_is_not_believed(store: Store) -> None:
    publish(store, "samples", "k1", FILES).path.rename(store.objects.path("samples", "k2"))
    assert store.objects.get("samples", "k2") is None


def test_an_unknown_file_name_lists_the_known_ones(store: Store) -> None:
    with pytest.raises(StoreError, match=r"no file 'b'; it has a\."):
        publish(store, "samples", "k", {"a": b""}).file("b")


def test_a_removed_object_is_gone(store: Store) -> None:
    path = publish(store, "samples", "k", FILES).path
    store.objects.remove("samples", "k")
    store.objects.remove("samples", "k")
    assert not path.exists()
    assert store.objects.get("samples", "k") is None


@pytest.mark.parametrize("project", ["cat", "../up", "..", "a/b", "naïve cat", "a.b"])
def test_refs_come_back_whatever_the_project_is_called(store: Store, project: str) -> None:
    store.refs.set(project, "samples", "k1")
    store.refs.set(project, "samples", "k2")
    store.refs.set("other", "samples", "k3")
    assert store.refs.get(project, "samples") == "k2"
    assert store.refs.get(project, "metrics") is None
    assert store.refs.all() == {(project, "samples"): "k2", ("other", "samples"): "k3"}
    assert store.refs.path(project, "samples").resolve().is_relative_to(store.root / "refs")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_byte_anywhere_in_a_ref_is_named_and_not_used(
    store: Store, caplog: pytest.LogCaptureFixture, data: st.DataObject
) -> None:
    store.refs.set("cat", "samples", "k")
    path = store.refs.path("cat", "samples")
    flip(path, data.draw(st.integers(0, path.stat().st_size - 1)), data.draw(st.integers(1, 255)))
    caplog.clear()
    assert store.refs.get("cat", "samples") is None
    assert str(path) in caplog.text
    assert store.refs.all() == {}
    assert [problem.path for problem in verify_store(store)] == [path]
    store.refs.set("cat", "samples", "k")
    assert store.refs.get("cat", "samples") == "k"


def test_a_ref_moved_to_another_project_is_not_used(store: Store) -> None:
    store.refs.set("cat", "samples", "k")
    target = store.refs.path("dog", "samples")
    target.parent.mkdir()
    store.refs.path("cat", "samples").rename(target)
    assert store.refs.get("dog", "samples") is None
    assert [path for path, _ in store.refs.damaged()] == [Path(target)]
