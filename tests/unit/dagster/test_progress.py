from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lora_assets.assets import progress
from lora_assets.projects import ProjectAssets, discover_projects
from tests.unit.dagster.support import write_config
from trainer_core.types import ProgressEvent


@dataclass
class Log:
    lines: list[str] = field(default_factory=list)
    events: list[dg.AssetObservation] = field(default_factory=list)

    @property
    def log(self) -> Log:
        return self

    def info(self, line: str) -> None:
        self.lines.append(line)

    def log_event(self, event: dg.AssetObservation) -> None:
        self.events.append(event)


@pytest.fixture
def project(tmp_path: Path) -> ProjectAssets:
    write_config(tmp_path)
    (found,) = discover_projects(tmp_path / "configs")
    assert isinstance(found, ProjectAssets)
    return found


def report_steps(monkeypatch: pytest.MonkeyPatch, project: ProjectAssets, seconds_a_step: float, steps: int) -> Log:
    log, clock = Log(), [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    report = progress.Progress(log, project, "lora_checkpoint")  # type: ignore[arg-type]
    for step in range(1, steps + 1):
        clock[0] += seconds_a_step
        report(ProgressEvent("lora_checkpoint", step, steps, "step", {"loss": 0.5, "it/s": float("nan")}))
    return log


def test_thousands_of_steps_are_a_few_lines(monkeypatch: pytest.MonkeyPatch, project: ProjectAssets) -> None:
    log = report_steps(monkeypatch, project, seconds_a_step=0.01, steps=10_000)
    assert len(log.lines) in range(18, 22)
    assert len(log.events) in range(9, 13)
    assert log.lines[0].startswith("lora_checkpoint: 50") and "0:01:35 left, loss 0.5" in log.lines[0]
    assert log.lines[-1] == "lora_checkpoint: 10000/10000 step, loss 0.5"


def test_figures_are_plotted_as_floats_without_nan(monkeypatch: pytest.MonkeyPatch, project: ProjectAssets) -> None:
    log = report_steps(monkeypatch, project, seconds_a_step=60.0, steps=2)
    metadata: Any = [event.metadata for event in log.events]
    assert [set(one) for one in metadata] == [{"step", "loss"}] * 2
    assert metadata[0]["loss"] == dg.FloatMetadataValue(0.5)
    assert {event.asset_key for event in log.events} == {dg.AssetKey("lora_checkpoint")}


class Listener(Log):
    """A log that remembers when it has heard a line often enough."""

    def __init__(self, awaited: str, times: int) -> None:
        super().__init__()
        self.awaited, self.times, self.heard = awaited, times, threading.Event()

    def info(self, line: str) -> None:
        super().info(line)
        if sum(self.awaited in one for one in self.lines) >= self.times:
            self.heard.set()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENCE_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
def test_a_stage_that_reports_nothing_says_again_and_again_that_it_works(project: ProjectAssets) -> None:
    log = Listener("samples: working, for 0:00:0", 3)
    with progress.Progress(log, project, "samples"):  # type: ignore[arg-type]
        assert log.heard.wait(30)
    count = len(log.lines)
    assert not any(thread.name == "progress of samples" for thread in threading.enumerate())
    assert len(log.lines) == count


@pytest.mark.usefixtures("impatient")
def test_silence_after_some_progress_says_how_far_it_was(project: ProjectAssets) -> None:
    log = Listener("cached_latents: working, for 0:00:0", 1)
    with progress.Progress(log, project, "cached_latents") as report:  # type: ignore[arg-type]
        report(ProgressEvent("cached_latents", 3, 8, "picture"))
        assert log.heard.wait(30)
    assert log.lines[-1].endswith("3/8 picture so far")


@pytest.mark.usefixtures("impatient")
def test_a_wait_for_a_lock_is_named_until_it_is_over(project: ProjectAssets) -> None:
    locks = logging.getLogger("trainer_core.store.locks")
    level, log = locks.level, Listener("waiting for another process that works on text-1", 2)
    with progress.Progress(log, project, "samples"):  # type: ignore[arg-type]
        locks.info("waiting", extra={"waiting_for": "text-1"})
        assert log.heard.wait(30)
        log.awaited, log.times = "working", 1
        log.heard.clear()
        locks.info("waited", extra={"waiting_for": None})
        assert log.heard.wait(30)
    assert (locks.level, locks.handlers) == (level, [])


@pytest.mark.usefixtures("impatient")
def test_a_log_that_cannot_be_written_for_a_moment_is_tried_again(project: ProjectAssets) -> None:
    class Locked(Listener):
        def info(self, line: str) -> None:
            if not self.lines:
                self.lines.append("lost")
                raise OSError("database is locked")
            super().info(line)

    log = Locked("working", 1)
    with progress.Progress(log, project, "samples"):  # type: ignore[arg-type]
        assert log.heard.wait(30)
