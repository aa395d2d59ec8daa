"""What a run does when memory runs out is written down, and read again by the next start."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer_core.errors import LoraAssetsError
from trainer_core.hardware.step_plan import StepLimits, StepPlan
from trainer_core.train.memory.ladder import Ladder, lowered, read_rungs
from trainer_core.train.observe.metrics import MetricsFile, StepMetrics, read_metrics

ERROR = "CUDA out of memory"


def metrics(step: int) -> StepMetrics:
    return StepMetrics(step, 0.5, 1e-4, 1.0, 1.0, 1.0, 100.0, 0.0)


def test_rungs_stay_in_metrics_when_a_run_goes_back_and_are_no_lines_of_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    file.write(metrics(2))
    ladder = Ladder(StepPlan(), StepLimits(4), record=path)
    assert ladder.lower(3, ERROR) == StepPlan("every_second")
    assert ladder.lower(3, ERROR) == StepPlan("all")
    file.write(metrics(4))
    MetricsFile(path, 2)
    assert [line.step for line in read_metrics(path)] == [2]
    assert read_rungs(path) == ladder.taken
    assert lowered(StepPlan(), read_rungs(path), StepLimits(4)) == StepPlan("all")


def test_what_the_user_fixed_since_is_not_overruled_by_rungs(tmp_path: Path) -> None:
    ladder = Ladder(StepPlan("all", 2), StepLimits(4))
    ladder.lower(3, ERROR)
    limits = StepLimits(4, recomputes=False, splits=False)
    assert lowered(StepPlan("off", 4), ladder.taken, limits) == StepPlan("off", 4)
    assert lowered(StepPlan("off", 4), ladder.taken, StepLimits(4)) == StepPlan("all", 1)


def test_one_of_several_processes_writes_the_rung_and_stops(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(LoraAssetsError, match="go on from the last checkpoint with gradient checkpointing of every"):
        Ladder(StepPlan(), StepLimits(4), record=path, alone=False).lower(3, ERROR)
    assert [rung.step for rung in read_rungs(path)] == [3]


def test_several_processes_start_again_as_long_as_a_measure_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer_core.stages.training import launch

    starts: list[bool] = []

    def run(context: object, request: Path, stop: object) -> int:
        starts.append((tmp_path / "error-0.json").exists())
        ladder = Ladder(StepPlan("every_second"), StepLimits(1), record=tmp_path / "metrics.jsonl", alone=False)
        ladder.plan = StepPlan("all") if len(starts) > 1 else ladder.plan
        try:
            ladder.lower(3, ERROR)
        except LoraAssetsError as error:
            launch.write_error(tmp_path, 0, error)
        return 1

    monkeypatch.setattr(launch, "_run", run)
    monkeypatch.setattr(launch, "_request", lambda *_: {})
    with pytest.raises(LoraAssetsError, match="Tried"):
        launch.train_in_processes(None, tmp_path)  # type: ignore[arg-type]
    assert starts == [False, False]
