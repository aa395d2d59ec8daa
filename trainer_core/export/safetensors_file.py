"""Write safetensors files whose bytes depend on their contents alone.

The safetensors library keeps metadata in a hash map, so equal contents give other bytes at every run. Here the header
is written again with its metadata in sorted order: the format allows any order of keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import deserialize

from trainer_core.lazy import torch
from trainer_core.store.shards import DTYPES

if TYPE_CHECKING:
    from torch import Tensor

_LENGTH = 8
"""Bytes of the little-endian header length at the start of the file."""


def serialize(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file with sorted metadata.

    Args:
        tensors: contiguous CPU tensors by name.
        metadata: strings by name.
    """
    from safetensors.torch import save

    return with_metadata(save(dict(tensors)), metadata)


def with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file with other metadata, sorted."""
    end = _header_end(data)
    header = json.loads(data[_LENGTH:end])
    header.pop("__metadata__", None)
    ordered = {"__metadata__": dict(sorted(metadata.items())), **header}
    encoded = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % _LENGTH)
    return len(encoded).to_bytes(_LENGTH, "little") + encoded + data[end:]


def body_sha256(data: bytes) -> str:
    """Return the SHA-256 of all bytes after the header, by which other programs know a LoRA: no metadata changes it."""
    return hashlib.sha256(memoryview(data)[_header_end(data) :]).hexdigest()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes of tensors, whatever the metadata says."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def file_sha256(path: Path) -> str:
    """Return `tensors_sha256` of a file's tensors, without torch.

    Raises:
        SafetensorError: it is damaged.
        ValueError: a tensor has a type that no LoRA file of ours holds.
    """
    total = hashlib.sha256()
    for name, view in sorted(deserialize(path.read_bytes()), key=lambda item: item[0]):
        if view["dtype"] not in DTYPES:
            raise ValueError(f"{path}: {name} is of type {view['dtype']}")
        total.update(f"{name} torch.{DTYPES[view['dtype']]} {tuple(view['shape'])}\n".encode())
        total.update(view["data"])
    return total.hexdigest()


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file without its tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        header: dict[str, dict[str, str]] = json.loads(file.read(length))
    return header.get("__metadata__", {})


def _header_end(data: bytes) -> int:
    return _LENGTH + int.from_bytes(data[:_LENGTH], "little")
