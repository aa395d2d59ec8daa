"""Counts, on a CPU, the calls that would make a program wait for a GPU."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_WAITING: frozenset[Callable[..., Any]] = frozenset(
    [
        Tensor.item,
        Tensor.tolist,
        Tensor.cpu,
        Tensor.numpy,
        Tensor.__bool__,
        Tensor.__int__,
        Tensor.__float__,
        Tensor.__index__,
        Tensor.nonzero,
        torch.nonzero,
        torch.equal,
        torch.masked_select,
        Tensor.masked_select,
        torch.unique,
        Tensor.unique,
        torch.is_nonzero,
    ]
)
"""Functions that give Python a number of a tensor, or a tensor whose size only the device knows."""


class Syncs(TorchFunctionMode):
    """Notes each waiting call inside its block: the function and the line of the program that made it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _WAITING or self._picks_by_mask(func, args) or self._copies_back(func, args, kwargs or {}):
            frame = traceback.extract_stack()[-2]
            self.calls.append(f"{func.__name__} in {frame.filename.rpartition('site-packages/')[2]}: {frame.line}")
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _picks_by_mask(func: Any, args: Any) -> bool:
        if func is not Tensor.__getitem__:
            return False
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in index)

    @staticmethod
    def _copies_back(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
        """Say whether a copy to the CPU is asked for by name; one to a tensor's own device is not."""
        return func is Tensor.to and "cpu" in (*args[1:2], kwargs.get("device"))
