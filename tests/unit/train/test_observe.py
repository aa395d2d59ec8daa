"""Where time and memory go, what is unusual, and following a file as it grows."""

from __future__ import annotations

import mmap
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from trainer_core.files import append_record, rewrite_records
from trainer_core.hardware.memory_use import take_peak
from trainer_core.train.observe.anomalies import AnomalyWatch
from trainer_core.train.observe.metrics import NewestLine, StepMetrics, read_metrics
from trainer_core.train.observe.phases import PHASES, PhaseClock
from trainer_core.train.observe.profiling import SUMMARY, TRACE, StepProfiler


def line(step: int) -> StepMetrics:
    return StepMetrics(
        step, 0.5, 1e-4, 0.1, 2.0, 4.0, 100.0, 0.01, phases={"forward": 0.25}, gpu={"gpu_power_w": 300.0}
    )


def test_each_phase_counts_its_own_time_and_is_read_once() -> None:
    clock = PhaseClock(torch.device("cpu"))
    for name in ("forward", "backward", "forward"):
        with clock.phase(name):
            torch.randn(64, 64) @ torch.randn(64, 64)
    taken = clock.take()
    assert set(taken) == set(PHASES)
    assert taken["forward"] > 0 < taken["backward"] and taken["save"] == 0
    assert not any(clock.take().values())


def test_a_phase_that_fails_is_timed_too() -> None:
    clock = PhaseClock(torch.device("cpu"))
    with pytest.raises(ZeroDivisionError), clock.phase("optimizer"):
        _ = 1 / 0
    assert clock.take()["optimizer"] > 0


def test_the_peak_of_memory_is_that_of_its_interval() -> None:
    take_peak()
    # Not through the allocator, which may keep what is freed.
    with mmap.mmap(-1, 256 * 2**20) as block:
        block.write(b"x" * (256 * 2**20))
        high = take_peak().allocated
    take_peak()
    assert take_peak().allocated < high - 128


def test_what_services_draw_has_phases_memory_and_sensors() -> None:
    curves = line(1).curves()
    assert curves["time/forward_ms"] == 250.0 and curves["gpu/power_w"] == 300.0
    assert {"loss/train", "grad_norm", "memory/peak_mib", "memory/reserved_mib"} <= set(curves)


def test_a_jump_of_the_loss_is_reported_once_and_noise_is_not() -> None:
    watch = AnomalyWatch()
    noise = [0.30, 0.34, 0.28, 0.36, 0.31, 0.33, 0.27, 0.37]
    assert not [found for loss in noise for found in watch.examine(loss, 2.0)]
    (found,) = watch.examine(1.5, 2.0)
    assert (found.level, found.field) == ("warning", "loss") and "0.32" in found.message
    assert watch.examine(1.6, 2.0) == []


def test_slower_steps_and_a_lowered_clock_are_reported_with_what_to_do() -> None:
    watch = AnomalyWatch()
    for _ in range(6):
        assert watch.examine(0.3, 2.0) == []
    (slow,) = watch.examine(0.3, 0.9)
    assert slow.field == "speed" and slow.fix
    reports = [watch.examine(0.3, 2.0, ("temperature",)) for _ in range(4)]
    assert [len(found) for found in reports] == [0, 0, 1, 0]
    assert "temperature" in reports[2][0].message


def test_a_growing_file_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    newest = NewestLine(path)
    assert newest.take() is None
    append_record(path, asdict(line(1)))
    append_record(path, asdict(line(2)))
    found = newest.take()
    assert found is not None and found.step == 2
    assert newest.take() is None
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert newest.take() is None
    rewrite_records(path, [asdict(line(1))])
    assert (found := newest.take()) is not None and found.step == 1
    assert read_metrics(path) == [line(1)]


@pytest.mark.setting("train.profile")
def test_a_profile_has_a_trace_and_a_page_of_the_dearest_operators(tmp_path: Path) -> None:
    profiler = StepProfiler(tmp_path / "profile", 2, 2)
    for step in range(5):
        profiler.before_step(step)
        torch.randn(128, 128) @ torch.randn(128, 128)
        profiler.after_step(step + 1)
    page = (tmp_path / "profile" / SUMMARY).read_text()
    assert page.startswith("# Profile of steps 2 to 3\n") and "`aten::mm` | 1 |" in page
    assert (tmp_path / "profile" / TRACE).read_bytes()[:2] == b"\x1f\x8b"
