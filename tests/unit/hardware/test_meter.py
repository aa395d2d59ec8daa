"""The meter against what torch's allocator itself recorded."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from trainer_core.hardware.meter import GRAIN, Meter

WIDTH = 512


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))


def step(layers: nn.Module, x: torch.Tensor) -> None:
    layers(x).square().mean().backward()


def allocator_peak(work: Callable[[], None]) -> int:
    """Return the most bytes that were allocated at once above the beginning, by the profiler's memory events."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    now = peak = 0
    for event in sorted(recorded.profiler.kineto_results.events(), key=lambda one: one.start_ns()):  # type: ignore[union-attr]
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def test_the_peak_is_that_of_the_allocator() -> None:
    layers, x = model(), torch.randn(64, WIDTH)
    real = allocator_peak(lambda: step(layers, x))
    layers.zero_grad()
    meter = Meter()
    for tensor in (*layers.parameters(), x):
        meter.track(tensor)
    there = meter.now
    with meter:
        step(layers, x)
    assert meter.peak - there == pytest.approx(real, rel=0.01)


def test_fake_tensors_weigh_as_much_as_real_ones() -> None:
    layers, x = model(), torch.randn(64, WIDTH)
    with Meter() as real:
        step(layers, x)
    with FakeTensorMode():
        hollow, thin = model(), torch.randn(64, WIDTH)
        with Meter() as fake:
            step(hollow, thin)
    assert fake.peak == real.peak


def test_views_count_once_and_what_is_freed_no_longer() -> None:
    with Meter() as meter:
        x = torch.zeros(1000)
        same = x[10:].view(-1)
        assert meter.now == 4096
        del x
        assert meter.now == 4096
        del same
    assert (meter.now, meter.peak) == (0, 4096)
    assert meter.peak % GRAIN == 0


def test_what_lives_already_counts_when_it_is_given() -> None:
    x = torch.zeros(GRAIN, dtype=torch.uint8)
    meter = Meter()
    meter.track(x)
    meter.track(x)
    assert meter.now == GRAIN


def test_a_fake_number_is_the_answer() -> None:
    with FakeTensorMode(), Meter(answer=77):
        assert torch.ones(3, dtype=torch.int64).sum().item() == 77
