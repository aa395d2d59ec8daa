"""Services that are told of a run: each step once, and never at the run's cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from trainer_core.config.groups import LoggingConfig
from trainer_core.train.observe.trackers import (
    Points,
    RunFolders,
    SamplePicture,
    Trackers,
    WeightsAndBiases,
    open_trackers,
)

Row = tuple[int, dict[str, float]]


class Service:
    """Stands for Weights & Biases, and keeps what it is told."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.ids: list[str] = []

    def __call__(self, project: str, **arguments: Any) -> Service:
        self.ids.append(arguments["id"])
        assert arguments["resume"] == "allow"
        return self

    def start(self) -> None: ...

    def finish(self) -> None: ...

    def log(self, values: Mapping[str, float], step: int, commit: bool) -> None:
        assert commit
        assert not self.rows or step > self.rows[-1][0], "a step is told once"
        self.rows.append((step, dict(values)))


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    from accelerate import tracking

    service = Service()
    monkeypatch.setattr(tracking, "WandBTracker", service)
    return service


def begin(folder: Path) -> WeightsAndBiases:
    place = RunFolders(folder / "runs" / "0123456789abcdef", folder / "outputs", "cats")
    return WeightsAndBiases(place, LoggingConfig(wandb="offline"))


def test_values_of_a_step_are_told_together(service: Service, tmp_path: Path) -> None:
    run = begin(tmp_path)
    run.log({"loss": 1.0}, 10)
    run.log({"held_out": 2.0}, 10)
    run.log({"loss": 0.5}, 20)
    assert service.rows == [(10, {"loss": 1.0, "held_out": 2.0})]
    run.close()
    assert service.rows[1:] == [(20, {"loss": 0.5})]


@pytest.mark.parametrize("killed_after", [10, 20, 30])
def test_a_killed_run_that_goes_on_tells_each_step_once(service: Service, tmp_path: Path, killed_after: int) -> None:
    run = begin(tmp_path)
    for step in range(10, killed_after + 1, 10):
        run.log({"loss": float(step)}, step)
    again = begin(tmp_path)  # without close: it was killed, and goes back to step 0
    for step in (10, 20, 30, 40):
        again.log({"loss": float(step)}, step)
    again.close()
    assert service.rows == [(step, {"loss": float(step)}) for step in (10, 20, 30, 40)]
    assert service.ids[0] == service.ids[1]


def test_a_damaged_state_begins_another_run(service: Service, tmp_path: Path) -> None:
    begin(tmp_path).close()
    (tmp_path / "runs" / "0123456789abcdef" / "wandb.json").write_text("{")
    begin(tmp_path).close()
    assert service.ids[0] != service.ids[1]
    known = json.loads((tmp_path / "runs" / "0123456789abcdef" / "wandb.json").read_text())
    assert known == {"id": service.ids[1], "step": -1}


EARLIER: Points = [(10, {"loss": 4.0}), (20, {"loss": 3.0})]


def test_a_service_that_has_nothing_of_a_run_gets_what_was_measured_before(service: Service, tmp_path: Path) -> None:
    folders = RunFolders(tmp_path / "runs" / "0123456789abcdef", tmp_path / "outputs", "cats")
    for begins in (20, 20):  # stopped at once, and begun again
        trackers = open_trackers(folders, LoggingConfig(wandb="offline"), begins, EARLIER)
        trackers.close()
    assert service.rows == EARLIER


def test_tensorboard_gets_what_was_measured_before_and_gets_it_once(tmp_path: Path) -> None:
    folders = RunFolders(tmp_path / "runs" / "key", tmp_path / "outputs", "cats")
    settings, folder = LoggingConfig(tensorboard=True), tmp_path / "outputs" / "tensorboard" / "key"
    first = open_trackers(folders, settings, 20, EARLIER)
    first.log({"loss": 2.0}, 30)
    first.log({"loss": 1.5}, 40)
    first.close()
    assert curve(folder) == [(10, 4.0), (20, 3.0), (30, 2.0), (40, 1.5)]
    # The run was stopped and goes back to step 30: TensorBoard has the beginning already.
    again = open_trackers(folders, settings, 30, [*EARLIER, (30, {"loss": 2.0})])
    again.log({"loss": 1.0}, 40)
    again.close()
    assert curve(folder) == [(10, 4.0), (20, 3.0), (30, 2.0), (40, 1.0)]


def curve(folder: Path) -> list[tuple[int, float]]:
    """What TensorBoard's own reader finds."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder)).Reload()
    return [(point.step, point.value) for point in reader.Scalars("loss")]


class Broken:
    is_new = True

    def __init__(self) -> None:
        self.calls = 0

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.calls += 1
        raise ConnectionError("no route to host")

    def show(self, pictures: Sequence[SamplePicture]) -> None: ...

    def close(self) -> None: ...


def test_a_service_that_fails_is_told_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    broken = Broken()
    trackers = Trackers({"wandb": broken})
    for step in range(3):
        trackers.log({"loss": 1.0}, step)
    trackers.close()
    assert broken.calls == 1
    assert caplog.text.count("logging.wandb failed") == 1


def test_nothing_is_told_where_nothing_is_turned_on(tmp_path: Path) -> None:
    place = RunFolders(tmp_path / "runs" / "x", tmp_path / "outputs", "cats")
    assert open_trackers(place, LoggingConfig(), 0, [(0, {"loss": 1.0})]).active == {}
    assert list(tmp_path.iterdir()) == []
