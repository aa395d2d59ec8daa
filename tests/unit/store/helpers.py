"""Small stores to break, and the means to break them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from torch import Tensor

from trainer_core.store import Published, Store, digest
from trainer_core.types import FileStat


def key_of(number: int) -> str:
    """An entry's key."""
    return digest(["entry", number])


def tensors_of(number: int) -> dict[str, Tensor]:
    """Its tensors: two dtypes, one scalar."""
    generator = torch.Generator().manual_seed(number)
    return {
        "latents": torch.randn(4, 3, 5, generator=generator).bfloat16(),
        "mask": torch.tensor([True, False, True]),
        "scale": torch.tensor(float(number)),
    }


def fill(store: Store, numbers: range, max_entries: int = 512) -> list[str]:
    """Write entries; returns their keys."""
    with store.entries.writer("latents", max_entries=max_entries) as writer:
        for number in numbers:
            writer.add(key_of(number), tensors_of(number), {"number": number})
    return [key_of(number) for number in numbers]


def check_entries(store: Store, numbers: range) -> None:
    """Assert that the entries are there, bit for bit."""
    found = store.entries.read([key_of(number) for number in numbers])
    for number in numbers:
        wanted = tensors_of(number)
        got = found[key_of(number)]
        assert got.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert got[name].dtype == tensor.dtype
            assert torch.equal(got[name], tensor)


def publish(store: Store, stage: str, key: str, files: dict[str, bytes], metadata: object = None) -> Published:
    """Publish an object with these files."""
    with store.objects.staging(stage, key) as staged:
        for name, data in files.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(data)
        return store.objects.publish(
            stage, key, staged, data_version=digest(key), recipe={"stage": stage}, metadata=metadata or {}
        )


def flip(path: Path, offset: int, mask: int = 1) -> None:
    """Flip bits of one byte; `offset` counts from the end when negative."""
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    stat = path.stat()
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def stat_of(path: Path) -> FileStat:
    """What discovery would say of a file."""
    stat = path.stat()
    return FileStat.of(stat)


def make_old(root: Path, seconds: float = 7200) -> None:
    """Age everything below `root`."""
    for path in [root, *root.rglob("*")]:
        os.utime(path, (time.time() - seconds,) * 2)
