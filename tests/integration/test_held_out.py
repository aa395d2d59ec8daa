"""Other held-out pictures alone are measured, and train again only where their losses choose the weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.projects import TinyProject, draw_picture
from trainer_core.run import StageResult

LAST = ("train.select=last", "train.evaluate_every=2", "datasets.0.held_out=0")


def add_picture(project: TinyProject, number: int) -> None:
    draw_picture(project.folder / "exam" / f"{number}.png", seed=100 + number, size=(64, 64))
    (project.folder / "exam" / f"{number}.txt").write_text(f"an exam picture of number {number}\n")


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    project = TinyProject(finished_sd15).copy(tmp_path / "project")
    (project.folder / "exam").mkdir()
    add_picture(project, 0)
    text = project.config.read_text()
    second = text.replace("held_out: 0.2}]", "held_out: 0.2}, {path: exam, held_out: 1}]")
    assert second != text
    project.config.write_text(second)
    return project


def train(project: TinyProject, *settings: str) -> StageResult:
    return project.run(*settings, until="lora_checkpoint")["lora_checkpoint"]


def reasons(project: TinyProject, *settings: str) -> str:
    return "; ".join(project.plan(*settings)["lora_checkpoint"].reasons)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.setting("datasets.held_out")
def test_another_held_out_picture_is_measured_and_trains_nothing(project: TinyProject, schedule: str) -> None:
    settings = (*LAST, f"schedule.name={schedule}")
    first = train(project, *settings)
    assert first.items_computed == 4
    add_picture(project, 1)
    assert "trains nothing" in reasons(project, *settings)
    again = train(project, *settings)
    assert (again.items_computed, again.items_reused) == (0, 4)
    assert again.data_version == first.data_version
    before, after = (one.published.metadata["held_out_losses"] for one in (first, again))
    assert set(before) == {"0", "2", "4"}
    assert set(after) == {"4"}
    assert after["4"] != before["4"]
    assert reasons(project, *settings) == ""


def test_a_longer_run_goes_on_from_one_with_other_held_out_pictures(project: TinyProject) -> None:
    train(project, *LAST)
    add_picture(project, 1)
    longer = train(project, *LAST, "train.steps=8")
    assert (longer.items_computed, longer.items_reused) == (4, 4)
    assert set(longer.published.metadata["held_out_losses"]) == {"4", "6", "8"}


def test_where_losses_choose_the_step_the_run_starts_over_and_plan_says_so(project: TinyProject) -> None:
    best = tuple("train.select=best" if one == "train.select=last" else one for one in LAST)
    train(project, *best)
    add_picture(project, 1)
    assert "starts over" in reasons(project, *best)
    assert "other pictures are held out" in reasons(project, *best)
    assert train(project, *best).items_computed == 4


def test_a_picture_that_was_trained_and_is_held_out_now_trains_again(project: TinyProject) -> None:
    train(project, *LAST)
    assert train(project, *LAST, "datasets.0.held_out=0.4").items_computed == 4


def test_losses_from_the_end_alone_choose_no_step_later(project: TinyProject) -> None:
    train(project, *LAST)
    add_picture(project, 1)
    train(project, *LAST)
    again = train(project, *LAST, "train.select=best")
    assert again.items_computed == 4
    assert set(again.published.metadata["held_out_losses"]) == {"0", "2", "4"}
