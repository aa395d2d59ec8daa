"""Collects entries and writes them as shards of a useful size."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from trainer_core.errors import NonFiniteError, StoreError
from trainer_core.lazy import torch
from trainer_core.store.keys import check_name
from trainer_core.store.shards import PendingEntry
from trainer_core.types import JSON

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
Publish = Callable[[Mapping[str, PendingEntry]], object]


class EntryWriter:
    """Collects entries in memory and publishes them as shards; leaving its context, even by an exception, writes it."""

    def __init__(self, publish: Publish, max_entries: int, max_bytes: int, max_seconds: float) -> None:
        """Use `EntryStore.writer`."""
        self._publish = publish
        self._max_entries, self._max_bytes, self._max_seconds = max_entries, max_bytes, max_seconds
        self._pending: dict[str, PendingEntry] = {}
        self._bytes = 0
        self._since = 0.0

    def __enter__(self) -> EntryWriter:
        """Begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Publish the rest; when an exception is on its way already, a failure to do so is only logged."""
        try:
            self.flush()
        except StoreError as failure:
            if error is None:
                raise
            log.error("%s", failure)

    def add(self, key: str, tensors: Mapping[str, Tensor], note: Mapping[str, JSON]) -> None:
        """Take an entry; its tensors are copied to the CPU.

        Args:
            key: the entry's key.
            tensors: one or more tensors by name, any device and shape, finite.
            note: small JSON facts kept beside them.

        Raises:
            NonFiniteError: a tensor holds a NaN or an infinity.
            StoreError: the disk is full or not writable.
        """
        assert tensors, f"entry {key} has no tensors"
        if key in self._pending:
            return
        copies: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            copy = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format).contiguous()
            values = copy.float() if copy.is_floating_point() and copy.itemsize == 1 else copy
            if not bool(torch.isfinite(values).all()):
                raise NonFiniteError(f"{name} of entry {key} holds a NaN or an infinity: not stored.", [key])
            copies[name] = copy
        if not self._pending:
            self._since = time.monotonic()
        self._pending[check_name(key)] = PendingEntry(copies, dict(note))
        self._bytes += sum(copy.nbytes for copy in copies.values())
        if self._is_full():
            self.flush()

    def flush(self) -> None:
        """Publish what was collected so far.

        Raises:
            StoreError: the disk is full or not writable.
        """
        if self._pending:
            self._publish(self._pending)
            # Only now: an interrupt during the write finds everything still here, and writes it at the end.
            self._pending, self._bytes = {}, 0

    def _is_full(self) -> bool:
        waited = time.monotonic() - self._since
        return len(self._pending) >= self._max_entries or self._bytes >= self._max_bytes or waited >= self._max_seconds
