from __future__ import annotations

import io
import sys

import pytest

from trainer_core.cli import progress as module
from trainer_core.cli.progress import Bars, Lines, Track, duration, progress
from trainer_core.types import ProgressEvent


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (41.6, "0:42"), (725, "12:05"), (3599.7, "1:00:00"), (11220, "3:07:00")]
)
def test_times_are_written_as_clocks_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_rate_and_time_left_count_from_the_first_event() -> None:
    clock = Clock()
    track = Track("lora_checkpoint", clock)
    # A resumed run: the steps before 500 were done by another process.
    track.update(ProgressEvent("lora_checkpoint", 500, 1000, "step"))
    clock.now += 10
    track.update(ProgressEvent("lora_checkpoint", 520, 1000, "step"))
    assert track.rate() == 2.0
    assert track.describe() == "520/1000 steps  2.0/s  ETA 4:00"


def test_the_rate_of_what_is_done_stays_as_it_was() -> None:
    clock = Clock()
    track = Track("samples", clock)
    for done in (1, 11):
        track.update(ProgressEvent("samples", done, 11, "picture"))
        clock.now += 5
    clock.now += 1000
    assert track.rate() == 2.0


def test_slow_work_is_told_in_seconds_each() -> None:
    clock = Clock()
    track = Track("samples", clock)
    track.update(ProgressEvent("samples", 1, 8, "picture"))
    clock.now += 30
    track.update(ProgressEvent("samples", 2, 8, "picture"))
    assert track.describe() == "2/8 pictures  30.0 s each  ETA 3:00"


def test_the_latest_loss_stays_on_show_between_two_readings() -> None:
    track = Track("lora_checkpoint", Clock())
    track.update(ProgressEvent("lora_checkpoint", 10, 100, "step", {"loss": 0.12345, "lr": 1e-4, "memory_mib": 5.0}))
    track.update(ProgressEvent("lora_checkpoint", 11, 100, "step"))
    assert track.describe() == "11/100 steps  loss 0.1235  lr 1.00e-04"


def test_lines_come_at_the_start_every_five_seconds_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines(clock)
    for done in range(1, 121):
        lines(ProgressEvent("cached_latents", done, 120, "picture"))
        clock.now += 0.125  # a binary fraction, so that nothing is rounded
    told = [line.split()[2] for line in capsys.readouterr().err.splitlines()]
    assert told == ["1/120", "41/120", "81/120", "120/120"]


def test_without_a_terminal_there_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(["a"]) as shown:
        shown(ProgressEvent("a", 1, 1))
        shown.finished("a", "computed")
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 1)[1] for line in told] == ["a: 1/1 it", "a: computed"]


def in_a_terminal(monkeypatch: pytest.MonkeyPatch, patience: float) -> io.StringIO:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(module, "PATIENCE", patience)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    return screen


def test_in_a_terminal_there_are_bars_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = in_a_terminal(monkeypatch, patience=0.0)
    with progress(["first", "second"]) as shown:
        assert isinstance(shown, Bars)
        shown(ProgressEvent("first", 3, 10, "picture"))
        shown.finished("first", "computed")
        shown._timer.join()
    drawn = screen.getvalue()
    assert "first" in drawn
    assert "second" in drawn, "the next stage is shown before its first event"
    assert "━" in drawn


def test_quick_work_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = in_a_terminal(monkeypatch, patience=60.0)
    with progress(["first"]) as shown:
        shown(ProgressEvent("first", 1, 1))
    assert screen.getvalue() == ""


def test_bars_fit_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    in_a_terminal(monkeypatch, patience=60.0)
    values = {"loss": 0.1234, "lr": 1e-4}
    with progress(["cached_text_embeddings", "lora_checkpoint"]) as shown:
        assert isinstance(shown, Bars)
        shown.finished("cached_text_embeddings", "reused")
        shown(ProgressEvent("lora_checkpoint", 500, 1500, "step", values))
        console = Console(file=io.StringIO(), width=80)
        console.print(shown.view())
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2
    assert all("━" in line for line in lines)


def test_stages_are_drawn_in_running_order_with_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_terminal(monkeypatch, patience=60.0)
    with progress(["first", "second", "third"]) as shown:
        assert isinstance(shown, Bars)
        shown.finished("first", "reused")
        shown(ProgressEvent("second", 2, 4, "step"))
        table = shown.view()
        assert list(table.columns[0].cells) == ["first", "second"]
        assert list(table.columns[2].cells)[0] == "reused"
        assert str(list(table.columns[2].cells)[1]).startswith("2/4 step")
