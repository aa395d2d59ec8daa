"""The file format of cached samples: one safetensors file of many entries, named by the digest of its own header.

The header's metadata carries one record (`lora_assets`) with, for every entry, its tensors, the SHA-256 of their bytes
and a note. The file's name is the SHA-256 of the header's bytes, so that a flip anywhere in the header shows, and the
header holds the SHA-256 of everything else. The same entries always give the same file with the same name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from trainer_core.errors import StoreError
from trainer_core.files import fsync_path
from trainer_core.lazy import torch
from trainer_core.store.disk import disk_errors, temp_path
from trainer_core.store.keys import canonical_json, seal, unseal
from trainer_core.types import JSON

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".safetensors"
_FORMAT = 1
_RECORD = "lora_assets"
_MAX_HEADER = 1 << 30
_PIECE = 1 << 20
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""Names of dtypes in safetensors -> in torch."""


class ShardDamaged(ValueError):
    """A shard's header or size is not what was published; the message says how."""


@dataclass(frozen=True)
class TensorRecord:
    """A tensor of an entry; `begin` and `end` are offsets in bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class EntryRecord:
    """An entry of a shard; `sha256` covers names, dtypes, shapes and bytes of its tensors."""

    tensors: Mapping[str, TensorRecord]
    sha256: str
    note: Mapping[str, JSON]

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.end - tensor.begin for tensor in self.tensors.values())


@dataclass(frozen=True)
class PendingEntry:
    """An entry that is not written yet: contiguous CPU tensors and a note."""

    tensors: Mapping[str, Tensor]
    note: Mapping[str, JSON]


@dataclass(frozen=True)
class ShardHeader:
    """The header of a shard; `size` is that of the whole file in bytes."""

    kind: str
    entries: Mapping[str, EntryRecord]
    size: int


def write_shard(root: Path, kind: str, entries: Mapping[str, PendingEntry]) -> Path:
    """Publish entries as one new shard and return its path; the same entries give the same file.

    Raises:
        StoreError: the disk is full or not writable.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

    folder = root / "entries" / kind
    temporary = temp_path(root, SUFFIX)
    tensors = {f"{key}/{name}": tensor for key, entry in entries.items() for name, tensor in entry.tensors.items()}
    record = {"format": _FORMAT, "kind": kind, "entries": {key: _describe(entries[key]) for key in sorted(entries)}}
    try:
        with disk_errors(folder, "write a shard"):
            folder.mkdir(parents=True, exist_ok=True)
            # One metadata key only: safetensors writes several in random order.
            save_file(tensors, temporary, metadata={_RECORD: seal(record).decode("utf-8", "surrogatepass")})
            fsync_path(temporary)
            target = folder / (_name_of(_header_bytes(temporary)) + SUFFIX)
            temporary.replace(target)
            fsync_path(folder)
    except SafetensorError as error:
        raise StoreError(
            f"{folder}: cannot write a shard: {error}. Free some space on this disk, or check that it is writable."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def read_header(path: Path) -> ShardHeader:
    """Read and check a shard's header; the tensors' bytes are not looked at.

    Raises:
        ShardDamaged: any byte of the header differs from what was published, or the file has another size.
        OSError: the file cannot be read.
    """
    raw = _header_bytes(path)
    if _name_of(raw) != path.stem:
        raise ShardDamaged("its header does not match its name")
    try:
        header = json.loads(raw[8:])
        record = unseal(header["__metadata__"][_RECORD].encode("utf-8", "surrogatepass"))
        if record["format"] != _FORMAT:
            raise ShardDamaged(f"it has format {record['format']}, this version reads {_FORMAT}")
        entries = {
            key: EntryRecord(_locate(header, key, entry["tensors"], len(raw)), entry["sha256"], entry["note"])
            for key, entry in record["entries"].items()
        }
        shard = ShardHeader(record["kind"], entries, len(raw) + sum(entry.size for entry in entries.values()))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ShardDamaged(f"its header cannot be read ({error})") from error
    size = path.stat().st_size
    if size != shard.size:
        raise ShardDamaged(f"it has {size} bytes instead of {shard.size}")
    return shard


def damaged_entries(path: Path) -> Iterator[str]:
    """Read every byte of a shard, without torch, and say what is wrong with each entry that is damaged.

    Raises:
        ShardDamaged: the header is not what was published.
        OSError: the file cannot be read.
    """
    header = read_header(path)
    with path.open("rb") as file:
        for key, entry in header.entries.items():
            found = _entry_digest(_shapes(entry), _pieces(file, entry))
            if found != entry.sha256:
                yield _mismatch(path, key, entry, found)


def _pieces(file: BinaryIO, entry: EntryRecord) -> Iterator[bytes]:
    for _, tensor in sorted(entry.tensors.items()):
        file.seek(tensor.begin)
        left = tensor.end - tensor.begin
        while left and (piece := file.read(min(left, _PIECE))):
            left -= len(piece)
            yield piece


class MappedShard:
    """A shard mapped into memory (privately: nothing done to the tensors reaches the file)."""

    def __init__(self, path: Path) -> None:
        """Map a shard whose header is checked first.

        Raises:
            ShardDamaged: the header is not what was published.
            OSError: the file cannot be read.
        """
        self.path = path
        self.header = read_header(path)
        self.verified: set[str] = set()

    @cached_property
    def _bytes(self) -> torch.Tensor:
        # Unlike Python's mmap this keeps no file open: a large store has more shards than a process may open files.
        return torch.from_file(str(self.path), shared=False, size=self.header.size, dtype=torch.uint8)

    def verify(self, key: str) -> str | None:
        """Hash an entry's bytes, once; what is wrong with it, or None."""
        if key in self.verified:
            return None
        entry = self.header.entries[key]
        spans = [self._span(tensor) for _, tensor in sorted(entry.tensors.items())]
        found = _entry_digest(_shapes(entry), _buffers(spans))
        if found != entry.sha256:
            return _mismatch(self.path, key, entry, found)
        self.verified.add(key)
        return None

    def tensors(self, key: str) -> dict[str, Tensor]:
        """Views of an entry's tensors; no byte is copied."""
        return {name: _typed(self._span(tensor), tensor) for name, tensor in self.header.entries[key].tensors.items()}

    def copy(self, key: str) -> PendingEntry | str:
        """An entry as `write_shard` wants it, to be written again bit for bit; or what is wrong with it."""
        entry = self.header.entries[key]
        # Bytes are copied, not values: a copy of booleans mends a damaged byte, so that the file would seem intact.
        copies = {name: _typed(self._span(tensor).clone(), tensor) for name, tensor in entry.tensors.items()}
        pending = PendingEntry(copies, entry.note)
        # The copy is hashed: an entry verified an hour ago may have been damaged since, and must get no new digest.
        found = str(_describe(pending)["sha256"])
        return pending if found == entry.sha256 else _mismatch(self.path, key, entry, found)

    def _span(self, tensor: TensorRecord) -> Tensor:
        return self._bytes[tensor.begin : tensor.end]


def _mismatch(path: Path, key: str, entry: EntryRecord, found: str) -> str:
    return f"{path}: entry {key}: expected SHA-256 {entry.sha256}, found {found}"


def _shapes(entry: EntryRecord) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in entry.tensors.items()}


def _buffers(spans: Sequence[Tensor]) -> Iterator[memoryview]:
    for span in spans:
        yield span.numpy().data  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _typed(span: Tensor, tensor: TensorRecord) -> Tensor:
    dtype: torch.dtype = getattr(torch, DTYPES[tensor.dtype])
    return span.view(dtype).view(tensor.shape)


def _describe(entry: PendingEntry) -> dict[str, JSON]:
    shapes = {name: (_dtype_name(tensor), tuple(tensor.shape)) for name, tensor in entry.tensors.items()}
    spans = [tensor.reshape(-1).view(torch.uint8) for _, tensor in sorted(entry.tensors.items())]
    tensors = {name: [dtype, list(shape)] for name, (dtype, shape) in shapes.items()}
    return {"tensors": tensors, "sha256": _entry_digest(shapes, _buffers(spans)), "note": dict(entry.note)}


def _entry_digest(shapes: Mapping[str, tuple[str, tuple[int, ...]]], spans: Iterable[bytes | memoryview]) -> str:
    """SHA-256 over names, dtypes and shapes, then the tensors' bytes in the order of their names."""
    hasher = hashlib.sha256(canonical_json({name: [dtype, list(shape)] for name, (dtype, shape) in shapes.items()}))
    for span in spans:
        hasher.update(span)
    return hasher.hexdigest()


def _dtype_name(tensor: Tensor) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    names = [ours for ours, theirs in DTYPES.items() if theirs == name]
    assert names, f"entries cannot hold tensors of {tensor.dtype}"
    return names[0]


def _locate(header: JSON, key: str, tensors: Mapping[str, JSON], base: int) -> dict[str, TensorRecord]:
    located: dict[str, TensorRecord] = {}
    for name, (dtype, shape) in tensors.items():
        own = header[f"{key}/{name}"]
        if (own["dtype"], own["shape"]) != (dtype, shape):
            raise ShardDamaged(f"tensor {key}/{name} is {own['dtype']} {own['shape']} instead of {dtype} {shape}")
        begin, end = own["data_offsets"]
        located[name] = TensorRecord(dtype, tuple(shape), base + begin, base + end)
    return located


def _header_bytes(path: Path) -> bytes:
    """The length (8 bytes, little endian) and the JSON after it."""
    with path.open("rb") as file:
        length = file.read(8)
        size = int.from_bytes(length, "little")
        if len(length) < 8 or size > min(_MAX_HEADER, path.stat().st_size - 8):
            raise ShardDamaged("its header is cut short")
        return length + file.read(size)


def _name_of(header: bytes) -> str:
    return hashlib.sha256(header).hexdigest()[:40]
