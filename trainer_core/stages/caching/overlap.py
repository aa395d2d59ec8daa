"""Encoding without waiting: pixels go up, results come down and are written while the device encodes. Imports torch.

decode threads: decode, stack, pin  >  this thread: upload, normalise, encode  >  writer thread: download, hash, write
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

_AHEAD = 4
"""Batches that wait for the writer at most; their results lie in the computer's memory meanwhile."""


def pinned(pixels: Tensor, device: torch.device) -> Tensor:
    """Return a CPU tensor from which a GPU can copy by itself; the tensor as it is for a CPU."""
    return pixels.pin_memory() if device.type == "cuda" else pixels


def normalised(pixels: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Bring pixels to a device, and to [-1, 1] there: a quarter of the bytes go over the bus.

    Args:
        pixels: uint8 [B, H, W, 3] on the CPU, pinned for a GPU.
        device: of the encoder.
        dtype: of the encoder.

    Returns:
        [B, 3, H, W] in `dtype` on `device`.
    """
    there = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2)
    return there.to(torch.float32).div_(127.5).sub_(1.0).to(dtype)


class Download:
    """Results on their way to the CPU; the copy is enqueued behind what computes them."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._event: torch.cuda.Event | None = None
        self._tensors = {name: self._start(tensor) for name, tensor in tensors.items()}
        if any(tensor.is_cuda for tensor in tensors.values()):
            self._event = torch.cuda.Event()
            self._event.record()

    def wait(self) -> dict[str, Tensor]:
        """Return the tensors on the CPU, when all of them are there."""
        if self._event is not None:
            self._event.synchronize()
        return self._tensors

    @staticmethod
    def _start(tensor: Tensor) -> Tensor:
        if not tensor.is_cuda:
            return tensor
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor, non_blocking=True)


class WriterThread:
    """Does work in order in one thread of its own. Leaving its context waits for all; an error ends the work."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._waiting: deque[Future[Any]] = deque()

    def __enter__(self) -> WriterThread:
        """Begin."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Wait; an error of the work is raised unless another is on its way already."""
        self._pool.shutdown(wait=True)
        if error is None:
            while self._waiting:
                self._waiting.popleft().result()

    def submit(self, work: Callable[[], object]) -> None:
        """Let the thread do something; waits while too much lies before it.

        Raises:
            Exception: what earlier work raised.
        """
        while self._waiting and (len(self._waiting) >= _AHEAD or self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(_without_gradients, work))


def _without_gradients(work: Callable[[], object]) -> None:
    # The mode belongs to a thread, not to the process.
    with torch.inference_mode():
        work()
