"""The dataset sensor: cheap listings, patience, and observations of content."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace

import dagster as dg
import pytest

from lora_assets.projects import ProjectAssets, discover_projects
from lora_assets.sensors import dataset_folder
from tests.integration.dagster.conftest import World
from tests.unit.dagster.support import definitions
from trainer_core.config.project import Project

Tick = Callable[[float], tuple[list[str], str]]


@pytest.fixture
def tick(world: World, monkeypatch: pytest.MonkeyPatch) -> Tick:
    """Return a function that evaluates the sensor so many seconds later: (assets observed, reason of a skip)."""
    (project,) = discover_projects(world.root / "configs")
    assert isinstance(project, ProjectAssets)
    clock, cursor = [dataset_folder.list_files(project.project).newest], [""]
    monkeypatch.setattr(dataset_folder, "time", SimpleNamespace(time=lambda: clock[0]))
    # The sensor sleeps until something of the project was made.
    world.instance.report_runless_asset_event(dg.AssetMaterialization("samples"))
    defs = definitions(world.root)
    sensor = defs.get_repository_def().get_sensor_def("default_dataset_folder")

    def evaluate(seconds: float) -> tuple[list[str], str]:
        clock[0] += seconds
        with dg.build_sensor_context(world.instance, cursor[0] or None, resources=defs.resources) as context:
            data = sensor.evaluate_tick(context)
        assert not data.run_requests
        cursor[0] = data.cursor or ""
        for event in data.asset_events:
            world.instance.report_runless_asset_event(event)  # type: ignore[arg-type]
        return [event.asset_key.to_user_string() for event in data.asset_events], data.skip_message or ""

    evaluate.clock = clock  # type: ignore[attr-defined]
    return evaluate


def test_a_project_of_which_nothing_was_made_is_not_listed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_folder, "list_files", lambda project: pytest.fail("listed"))
    defs = definitions(world.root)
    sensor = defs.get_repository_def().get_sensor_def("default_dataset_folder")
    with dg.build_sensor_context(world.instance, resources=defs.resources) as context:
        answer = sensor.evaluate_tick(context)
    assert not answer.asset_events and "materialize an asset first" in (answer.skip_message or "")


def test_after_a_long_listing_the_sensor_rests(world: World, tick: Tick, monkeypatch: pytest.MonkeyPatch) -> None:
    real, listed = dataset_folder.list_files, []

    def slow(project: Project) -> dataset_folder.Listing:
        listed.append(project)
        tick.clock[0] += 3.0  # type: ignore[attr-defined]
        return real(project)

    monkeypatch.setattr(dataset_folder, "list_files", slow)
    tick(60)
    assert "resting" in tick(20)[1] and len(listed) == 1
    tick(20)
    assert len(listed) == 2


def test_a_change_is_recorded_once_when_it_has_settled(world: World, tick: Tick) -> None:
    assert "waiting" in tick(1)[1]  # The first listing agrees with none before.
    assert "waiting" in tick(1)[1]  # Two agree, but the files are too young.
    assert tick(10)[0] == ["dataset_folder", "base_model"]
    assert tick(10) == ([], "nothing changed")
    assert world.statuses()["dataset_folder"] == "FRESH"

    world.caption(1, "another caption")
    assert "waiting" in tick(1)[1]
    world.caption(1, "still being written")
    assert "waiting" in tick(60)[1]
    assert tick(60)[0] == ["dataset_folder"]
    assert tick(5) == ([], "nothing changed")


def test_touching_a_file_has_it_read_and_records_nothing(world: World, tick: Tick) -> None:
    tick(0), tick(60)
    (world.data / "0.txt").touch()
    assert "waiting" in tick(60)[1]
    assert tick(60) == ([], "files were touched, but their content is what it was")
    assert tick(60) == ([], "nothing changed")


def test_a_change_taken_back_is_no_news(world: World, tick: Tick) -> None:
    before = (world.data / "0.txt").read_text()
    tick(0), tick(60)
    world.caption(0, "other")
    tick(60)
    world.caption(0, before)
    tick(60)
    assert tick(60)[0] == []


def test_what_the_sensor_saw_is_what_a_run_sees(world: World, tick: Tick, all_fresh: dict[str, str]) -> None:
    tick(0), tick(60)
    before = world.instance.get_latest_data_version_record(dg.AssetKey("dataset_folder"))
    world.materialize("validated_dataset")
    after = world.instance.get_latest_data_version_record(dg.AssetKey("dataset_folder"))
    assert before is not None and after is not None
    assert after.storage_id == before.storage_id
    assert world.statuses()["validated_dataset"] == "FRESH"


def test_a_missing_folder_is_named_and_tried_again(world: World, tick: Tick) -> None:
    world.data.rename(world.root / "away")
    tick(60)
    observed, reason = tick(60)
    assert observed == [] and str(world.data) in reason
    (world.root / "away").rename(world.data)
    tick(60)
    assert tick(60)[0] == ["dataset_folder", "base_model"]


def test_a_cursor_that_cannot_be_read_is_an_empty_one() -> None:
    for text in (None, "", "nonsense", json.dumps({"other": 1}), "[]"):
        assert dataset_folder.Cursor.read(text) == dataset_folder.Cursor()


@pytest.mark.setting("datasets.mask_path")
@pytest.mark.parametrize("field", ["control_path", "mask_path"])
def test_a_control_or_mask_folder_outside_the_dataset_is_listed_too(world: World, field: str) -> None:
    (project,) = discover_projects(world.root / "configs")
    assert isinstance(project, ProjectAssets)
    folder = world.root / "controls"
    (dataset,) = project.project.datasets
    paired = dataset.model_copy(update={field: folder if field == "mask_path" else (folder,)})
    edits = project.project.model_copy(update={"datasets": (paired,)})
    folder.mkdir()
    before = dataset_folder.list_files(edits)
    (folder / "0.png").write_bytes(b"a picture")
    after = dataset_folder.list_files(edits)
    assert after.fingerprint != before.fingerprint and after.newest > before.newest
