from __future__ import annotations

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


def tell(monkeypatch: pytest.MonkeyPatch, project: ProjectAssets, seconds_a_step: float, steps: int) -> Log:
    log, clock = Log(), [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    report = progress.Progress(log, project, "lora_checkpoint")  # type: ignore[arg-type]
    for step in range(1, steps + 1):
        clock[0] += seconds_a_step
        report(ProgressEvent("lora_checkpoint", step, steps, "step", {"loss": 0.5, "it/s": float("nan")}))
    return log


def test_thousands_of_steps_are_a_few_lines(monkeypatch: pytest.MonkeyPatch, project: ProjectAssets) -> None:
    log = tell(monkeypatch, project, seconds_a_step=0.01, steps=10_000)
    assert len(log.lines) in range(18, 22)
    assert len(log.events) in range(9, 13)
    assert log.lines[0].startswith("lora_checkpoint: 50") and "0:01:35 left, loss 0.5" in log.lines[0]
    assert log.lines[-1] == "lora_checkpoint: 10000/10000 step, loss 0.5"


def test_figures_are_plotted_as_floats_without_nan(monkeypatch: pytest.MonkeyPatch, project: ProjectAssets) -> None:
    log = tell(monkeypatch, project, seconds_a_step=60.0, steps=2)
    metadata: Any = [event.metadata for event in log.events]
    assert [set(one) for one in metadata] == [{"step", "loss"}] * 2
    assert metadata[0]["loss"] == dg.FloatMetadataValue(0.5)
    assert {event.asset_key for event in log.events} == {dg.AssetKey("lora_checkpoint")}
