"""Reads what Weights & Biases wrote offline: a log of protobuf records in blocks of 32 KiB, as LevelDB's."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BLOCK, _HEADER = 32768, 7


def history(path: Path) -> list[dict[str, Any]]:
    """Return every row that was logged, name -> value."""
    from wandb.proto import wandb_internal_pb2

    rows: list[dict[str, Any]] = []
    for data in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in items})
    return rows


def _records(data: bytes) -> Iterator[bytes]:
    """Join the pieces of each record: 1 is a whole one, 2 its beginning, 3 its middle, 4 its end."""
    offset, joined = _HEADER, b""
    while offset + _HEADER <= len(data):
        if _BLOCK - offset % _BLOCK < _HEADER:
            offset += _BLOCK - offset % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[offset : offset + _HEADER])
        joined += data[offset + _HEADER : offset + _HEADER + length]
        offset += _HEADER + length
        if kind in (1, 4):
            yield joined
            joined = b""
