"""Count the bytes that tensors hold, of real tensors and of fake ones. Imports torch.

torch's own `MemTracker` gives the same figures, but fails on frozen parameters and walks all modules at each operation.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed._tools.common_utils import get_untyped_storages
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

GRAIN = 512
"""Bytes of the smallest block that CUDA's allocator gives out; every block is a multiple of it."""

_NUMBER = torch.ops.aten._local_scalar_dense.default


class Meter(TorchDispatchMode):
    """Counts live storages while it is entered: those made by operations, and those given to `track`.

    Views count once, and a storage until it is freed. Give it the weights and inputs first: an operation that gives a
    view of one would count it from there on.
    """

    def __init__(self, answer: int = 0) -> None:
        """Start at nothing.

        Args:
            answer: what `.item()` and `.tolist()` say of a fake tensor, which has no numbers: of a mask's sum, the
                number of tokens.
        """
        super().__init__()
        self.now = 0
        """Bytes alive."""
        self.peak = 0
        """Most bytes alive at once since the beginning, or since `restart`."""
        self.on_growth: Callable[[Meter], None] | None = None
        """Called after each operation that made something."""
        self._answer = answer
        self._live: dict[int, int] = {}

    def track(self, tensor: Tensor) -> None:
        """Count the storages of a tensor, where they are not counted yet."""
        for storage in get_untyped_storages(tensor):
            key = storage._cdata  # pyright: ignore[reportPrivateUsage]
            if key not in self._live:
                self._live[key] = size = -(-storage.nbytes() // GRAIN) * GRAIN
                self.now += size
                weakref.finalize(storage, self._free, key)
        if self.now > self.peak:
            self.peak = self.now
            if self.on_growth is not None:
                self.on_growth(self)

    def restart(self) -> None:
        """Forget the peak; what lives now stays counted."""
        self.peak = self.now

    def _free(self, key: int) -> None:
        self.now -= self._live.pop(key, 0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Carry out an operation and count what it made."""
        if func is _NUMBER and isinstance(args[0], FakeTensor):
            return self._answer
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.track, made)
        return made
