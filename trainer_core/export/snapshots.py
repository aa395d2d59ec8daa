"""A run's adapter as it was at some step, kept in float32 until the result is put together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.export.safetensors_file import read_metadata, serialize, tensors_sha256
from trainer_core.files import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

_SHA256 = "sha256"


def write_snapshot(path: Path, adapter: Mapping[str, Tensor]) -> None:
    """Write an adapter's state atomically, with the SHA-256 of its weights."""
    # flushed to the disk: after a crash no later checkpoint may exist without this file
    write_atomic(path, serialize(adapter, {_SHA256: tensors_sha256(adapter)}))


def read_snapshot(path: Path) -> dict[str, Tensor] | None:
    """Read an adapter's state; a damaged file is named in the log and left out."""
    from safetensors.torch import load

    try:
        expected, adapter = read_metadata(path).get(_SHA256, "no SHA-256"), load(path.read_bytes())
        found = tensors_sha256(adapter)
    except Exception as error:  # noqa: BLE001 - whatever a damaged file makes its readers say
        log.warning("%s: damaged (%s: %s): left out of the samples", path, type(error).__name__, error)
        return None
    if expected != found:
        log.warning("%s: damaged (expected %s, found %s): left out of the samples", path, expected, found)
        return None
    return adapter
