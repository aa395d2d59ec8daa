"""Running out of memory is recognised, what was held is let go, and the work is done in smaller batches."""

from __future__ import annotations

import weakref

import pytest
import torch

from trainer_core.hardware.out_of_memory import in_smaller_batches, is_out_of_memory, release


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        torch.OutOfMemoryError(""),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
    ids=repr,
)
def test_errors_of_memory(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory"), OSError("no space")])
def test_other_errors(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_a_released_error_holds_nothing_of_the_work_that_failed() -> None:
    class Activations:
        pass

    def work() -> None:
        held = Activations()
        seen.append(weakref.ref(held))
        try:
            raise ValueError("first")
        except ValueError as error:
            raise MemoryError("none left") from error

    seen: list[weakref.ref[Activations]] = []
    with pytest.raises(MemoryError) as caught:
        work()
    assert seen[0]() is not None
    assert release(caught.value) == "none left"
    assert seen[0]() is None


def test_batches_are_halved_until_they_fit_and_stay_so() -> None:
    calls: list[tuple[int, int]] = []

    def work(start: int, end: int) -> list[int]:
        calls.append((start, end))
        if end - start > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return list(range(start, end))

    done = in_smaller_batches(work, 10, 8)
    assert [item for batch in done for item in batch] == list(range(10))
    assert calls == [(0, 8), (0, 4), (0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]


def test_one_item_that_does_not_fit_is_an_error_and_other_errors_are_not_tried_again() -> None:
    def too_large(start: int, end: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        in_smaller_batches(too_large, 4, 2)
    calls: list[int] = []

    def wrong(start: int, end: int) -> None:
        calls.append(start)
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        in_smaller_batches(wrong, 4, 2)
    assert calls == [0]
