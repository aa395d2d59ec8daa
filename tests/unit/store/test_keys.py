"""Digests and sealed records."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_core.store.keys import canonical_json, digest, seal, sha256_file, unseal

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_the_order_of_members_does_not_move_a_digest() -> None:
    assert digest({"a": 1, "b": [1.5, None]}) == digest({"b": [1.5, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_the_spelling_is_fixed_forever() -> None:
    assert canonical_json({"b": "ü", "a": [1, 2.5, True, None]}) == '{"a":[1,2.5,true,null],"b":"ü"}'.encode()
    assert digest({}) == hashlib.sha256(b"{}").hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_a_number_has_no_digest(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest({"lr": value})


def test_a_file_name_that_is_not_utf8_has_a_digest() -> None:
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    assert digest(name) != digest("caf.png")
    assert unseal(seal({"name": name})) == {"name": name}


def test_a_file_is_hashed_whole(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(data)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()


@given(st.dictionaries(st.text().filter(lambda name: name != "digest"), VALUES, max_size=5))
def test_a_sealed_record_comes_back(record: dict[str, object]) -> None:
    assert unseal(seal(record)) == record


@given(st.data())
def test_any_changed_byte_breaks_a_seal(data: st.DataObject) -> None:
    raw = bytearray(seal({"key": "abc", "files": {"a.png": 3}, "ratio": 0.5}))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError):  # noqa: PT011
        unseal(bytes(raw))
