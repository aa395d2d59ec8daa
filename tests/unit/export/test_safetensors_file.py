from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, safe_open

from trainer_core.export.safetensors_file import file_sha256, read_metadata, serialize, tensors_sha256

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(3, dtype=torch.bfloat16)}


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=12))
def test_equal_contents_give_equal_bytes_whatever_the_order_of_metadata(metadata: dict[str, str]) -> None:
    backwards = dict(reversed(metadata.items()))
    assert serialize(TENSORS, metadata) == serialize(TENSORS, backwards)


def test_the_library_reads_back_tensors_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(serialize(TENSORS, {"name": "ü", "z": "1"}))
    loaded = load(path.read_bytes())
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"name": "ü", "z": "1"} == read_metadata(path)


def test_the_digest_sees_names_dtypes_shapes_and_bytes_and_nothing_else() -> None:
    base = {"a": torch.zeros(2, 2)}
    others = [
        {"b": torch.zeros(2, 2)},
        {"a": torch.zeros(4)},
        {"a": torch.zeros(2, 2, dtype=torch.int32)},
        {"a": torch.tensor([[0.0, 0.0], [0.0, -0.0]])},
    ]
    assert len({tensors_sha256(one) for one in [base, *others]}) == 5
    assert tensors_sha256({"a": torch.zeros(2, 2).t()}) == tensors_sha256(base)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8])
def test_a_file_has_the_digest_of_its_tensors(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"b.weight": torch.arange(6).reshape(2, 3).to(dtype), "a": torch.ones((), dtype=dtype)}
    path = tmp_path / "file.safetensors"
    path.write_bytes(serialize(tensors, {"z": "1"}))
    assert file_sha256(path) == tensors_sha256(tensors)


def test_a_file_that_is_cut_short_has_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(serialize(TENSORS, {})[:-1])
    with pytest.raises(SafetensorError):
        file_sha256(path)
