"""The best step of a real run becomes the LoRA, and measuring it changes nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from tests.projects import TinyProject, worsen
from trainer_core import run
from trainer_core.errors import ConfigError, Interrupted
from trainer_core.export.safetensors_file import read_metadata
from trainer_core.run import StageResult
from trainer_core.types import ProgressEvent

TEN = ("train.steps=10", "train.evaluate_every=2", "optimizer.lr=0.05")
"""The held-out loss falls from 1.119 by at least 0.016 from each measurement to the next."""
BEST = 6
"""The best step once the later ones are made worse by 1: the next best is step 4, which is worse by 0.016."""


@pytest.fixture(autouse=True)
def late_steps_are_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    worsen(monkeypatch, 8, 10)


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished_sd15).copy(tmp_path / "project")


@pytest.fixture(scope="module")
def ten(finished_sd15: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyProject:
    """A project that was trained with `TEN`; to be read or copied."""
    project = TinyProject(finished_sd15).copy(tmp_path_factory.mktemp("ten") / "project")
    with pytest.MonkeyPatch.context() as patch:
        worsen(patch, 8, 10)
        project.run(*TEN, until="lora_checkpoint")
    return project


def sha256(project: TinyProject) -> str:
    return hashlib.sha256(project.lora.read_bytes()).hexdigest()


def reused(project: TinyProject) -> StageResult:
    """Return the result of the run with `TEN` that there is already."""
    result = project.run(*TEN, until="lora_checkpoint")["lora_checkpoint"]
    assert result.action == "reused"
    return result


@pytest.mark.setting("train.select", "train.evaluate_every")
def test_the_step_with_the_lowest_held_out_loss_becomes_the_lora(ten: TinyProject) -> None:
    known = reused(ten).published.metadata
    losses = {int(step): loss for step, loss in known["held_out_losses"].items()}
    assert set(losses) == {0, 2, 4, 6, 8, 10}
    assert losses[BEST] + 0.005 < min(loss for step, loss in losses.items() if step != BEST)
    assert known["selected_step"] == BEST
    assert read_metadata(ten.lora)["lora_assets.step"] == str(BEST)


def test_its_loss_measured_from_the_file_is_the_one_it_was_chosen_by(project: TinyProject) -> None:
    results = project.run(*TEN, "export.dtype=fp32")
    known = results["lora_checkpoint"].published.metadata
    chosen = known["held_out_losses"][str(known["selected_step"])]
    assert results["metrics"].published.metadata["held_out_loss_lora"] == pytest.approx(chosen, rel=1e-5)
    assert results["metrics"].published.metadata["held_out_loss_base"] == pytest.approx(
        known["held_out_losses"]["0"], rel=1e-5
    )


@pytest.mark.setting("train.select")
def test_taking_the_last_step_instead_trains_nothing_again(ten: TinyProject, tmp_path: Path) -> None:
    project = ten.copy(tmp_path / "project")
    best = sha256(project)
    last = project.run(*TEN, "train.select=last", until="lora_checkpoint")["lora_checkpoint"]
    assert last.items_computed == 0
    assert last.published.metadata["selected_step"] == 10
    assert sha256(project) != best


def test_measuring_more_often_changes_no_weight_of_the_last_step(project: TinyProject) -> None:
    last = (*TEN, "train.steps=6", "train.select=last", "adapter.dropout=0.3")
    seldom = project.run(*last, until="lora_checkpoint")
    often = project.run(*last, "train.evaluate_every=1", until="lora_checkpoint")
    assert often["lora_checkpoint"].items_computed == 6
    assert often["lora_checkpoint"].data_version == seldom["lora_checkpoint"].data_version


@pytest.mark.parametrize("step", [3, 4, 9])
def test_a_stopped_run_chooses_the_step_it_would_have_chosen(project: TinyProject, ten: TinyProject, step: int) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.stage == "lora_checkpoint" and event.done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    session = run.open_session(project.config, TEN, stop)
    with pytest.raises(Interrupted):
        run.run_until(session, "lora_checkpoint")
    session.close()
    result = project.run(*TEN, until="lora_checkpoint")["lora_checkpoint"]
    assert result.items_reused == step
    assert sha256(project) == sha256(ten)


def test_with_nothing_held_out_the_last_step_is_taken(project: TinyProject) -> None:
    known = project.run(*TEN, "datasets.0.held_out=0", until="lora_checkpoint")["lora_checkpoint"].published.metadata
    assert (known["selected_step"], known["held_out_losses"]) == (10, {})


def test_a_worse_lora_is_not_promoted_and_the_champion_stays(project: TinyProject) -> None:
    champion = project.home / "outputs" / "tiny" / "champion.safetensors"
    strict = "gate.max_held_out_rise=0"
    # The held-out losses: 1.044 of the good LoRA, 1.098 of the bad one, 1.119 of the base.
    good = project.run(*TEN, strict)
    assert good["metrics"].settled["promoted"]
    kept = champion.read_bytes()
    worse = (*TEN, "train.steps=2")
    bad = project.run(*worse, strict)
    assert not bad["metrics"].settled["promoted"]
    assert "against the champion's" in bad["metrics"].settled["reasons"][0]
    assert champion.read_bytes() == kept != project.lora.read_bytes()
    card = (project.home / "outputs" / "tiny" / "README.md").read_text()
    assert "against the champion" in card
    again = project.run(*worse, "gate.max_held_out_rise=10")
    assert again["metrics"].action == "reused"
    figures = json.loads((project.home / "outputs" / "tiny" / "metrics.json").read_text())
    assert figures["held_out_loss_lora"] + 0.01 < figures["held_out_loss_base"]
    assert again["metrics"].settled["promoted"]
    assert champion.read_bytes() == project.lora.read_bytes()


def test_a_champion_is_measured_again_when_other_pictures_are_held_out(project: TinyProject) -> None:
    first = project.run(*TEN)
    again = project.run(*TEN, "datasets.0.held_out=0.4")["metrics"]
    measured = again.published.metadata["champion"]
    assert measured["weights_sha256"] == first["lora_checkpoint"].data_version
    assert measured["held_out_loss"] > 0


@pytest.mark.parametrize("setting", ["gate.judge", "gate.clip_path"])
def test_a_scorer_that_is_not_there_is_named_before_anything_is_computed(project: TinyProject, setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        project.run(f"{setting}={project.folder / 'nowhere'}")
    assert setting in str(caught.value) and "nowhere" in str(caught.value)
