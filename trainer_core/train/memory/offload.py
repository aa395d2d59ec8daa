"""Activations in the computer's memory between the forward and the backward pass."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST = 2**16
"""Bytes below which a tensor stays: its copy would take longer than it is worth."""


def activations_offloaded(wanted: bool, smallest: int = SMALLEST) -> AbstractContextManager[Any]:
    """Surround a forward pass: what it saves for the backward pass goes to the computer's memory, and comes back.

    Weights stay, and so does what is on the CPU already when a GPU trains. Bits do not change.

    Args:
        wanted: whether to do so.
        smallest: bytes from which on a tensor goes.
    """
    if not wanted:
        return nullcontext()

    def pack(saved: Tensor) -> Tensor | tuple[Tensor, torch.device]:
        if saved.nbytes < smallest or _is_weight(saved):
            return saved
        host = torch.empty_like(saved, device="cpu", pin_memory=saved.is_cuda)
        # Copies and kernels of one stream follow each other, so that memory freed here is not written too early.
        return host.copy_(saved, non_blocking=saved.is_cuda), saved.device

    def unpack(packed: Tensor | tuple[Tensor, torch.device]) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        host, device = packed
        return host.to(device, non_blocking=True)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def _is_weight(tensor: Tensor) -> bool:
    # a linear layer saves a transposed view of its weight
    return isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)  # pyright: ignore[reportPrivateUsage]
