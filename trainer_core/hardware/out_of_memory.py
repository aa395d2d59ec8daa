"""Recognise that memory ran out, give back what the failed work held, and do it again in smaller batches."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Callable
from typing import TypeVar

_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)
"""What torch and its libraries write where they raise a plain RuntimeError."""
T = TypeVar("T")


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    # by name, so that a run with nothing to do need not import torch for its class
    named = type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, RuntimeError) and (named or any(sign in text for sign in _SIGNS))


def release(error: BaseException) -> str:
    """Let go of what the frames of a failed call hold, and return the error's text.

    Call `empty_cache` after the `except` block: inside it Python itself holds the error, and with it its frames.
    """
    text = str(error)
    visited: BaseException | None = error
    while visited is not None:
        traceback.clear_frames(visited.__traceback__)
        visited = visited.__cause__ or visited.__context__
    return text


def empty_cache() -> None:
    """Give freed memory back to the device, so that blocks of another size fit."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_smaller_batches(work: Callable[[int, int], T], count: int, size: int) -> list[T]:
    """Do work on items 0 ... count - 1 in batches; where memory runs out, in batches of half the size from there on.

    Args:
        work: called with the first item of a batch and the one after its last; must not have changed anything when it
            fails.
        count: number of items.
        size: items of a batch, at least 1.

    Returns:
        What `work` returned, batch by batch.
    """
    done: list[T] = []
    start = 0
    while start < count:
        failed = False
        try:
            done.append(work(start, min(start + size, count)))
        except (MemoryError, RuntimeError) as error:
            if min(size, count - start) == 1 or not is_out_of_memory(error):
                raise
            release(error)
            failed = True
        if failed:
            size = (min(size, count - start) + 1) // 2
            empty_cache()
        else:
            start += size
    return done
