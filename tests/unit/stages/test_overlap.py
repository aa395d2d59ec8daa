"""Encoding overlaps with what goes before and after it, and its results do not change by a bit."""

from __future__ import annotations

import threading

import pytest
import torch

from trainer_core.stages.caching.overlap import Download, WriterThread, normalised, pinned

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_pixels_that_are_normalised_on_the_device_are_the_same_bits(dtype: torch.dtype) -> None:
    pixels = torch.randint(0, 256, (2, 16, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0).to(CPU, dtype)
    after = normalised(pinned(pixels, CPU), CPU, dtype)
    assert torch.equal(after, before) and after.stride() == before.stride()
    assert (after.min(), after.max()) == (-1, 1)


def test_work_is_done_in_order_in_one_other_thread_and_all_of_it() -> None:
    done: list[int] = []
    threads: set[int] = set()

    def work(number: int) -> None:
        threads.add(threading.get_ident())
        assert torch.is_inference_mode_enabled()
        done.append(number)

    with WriterThread() as thread:
        for number in range(50):
            thread.submit(lambda number=number: work(number))
    assert done == list(range(50))
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_no_more_than_a_few_results_wait_for_the_writer() -> None:
    gate, submitted = threading.Event(), 0

    def release() -> None:
        gate.set()

    timer = threading.Timer(0.2, release)
    with WriterThread() as thread:
        timer.start()
        for _ in range(6):
            thread.submit(gate.wait)
            submitted += not gate.is_set()
    assert submitted <= 5


def test_an_error_of_the_writer_ends_the_encoding() -> None:
    def fail() -> None:
        raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="full"), WriterThread() as thread:
        thread.submit(fail)
    with pytest.raises(KeyError), WriterThread() as thread:
        thread.submit(fail)
        raise KeyError("the error that came first")


def test_a_download_from_the_cpu_is_the_tensor_itself() -> None:
    tensor = torch.ones(3)
    assert Download({"latents": tensor}).wait()["latents"] is tensor
