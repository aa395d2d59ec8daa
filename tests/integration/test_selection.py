"""The best step of a real run becomes the LoRA, and measuring it changes nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from tests.projects import TinyProject
from trainer_core import run
from trainer_core.errors import ConfigError, Interrupted
from trainer_core.export.safetensors_file import read_metadata
from trainer_core.types import ProgressEvent

# A rate at which the held-out loss soon rises again.
WILD = ("train.steps=10", "train.evaluate_every=2", "optimizer.lr=0.3")


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished_sd15).copy(tmp_path / "project")


def sha256(project: TinyProject) -> str:
    return hashlib.sha256(project.lora.read_bytes()).hexdigest()


@pytest.mark.setting("train.select", "train.evaluate_every")
def test_the_step_with_the_lowest_held_out_loss_becomes_the_lora(project: TinyProject) -> None:
    known = project.run(*WILD, until="lora_checkpoint")["lora_checkpoint"].published.metadata
    losses = {int(step): loss for step, loss in known["held_out_losses"].items()}
    assert set(losses) == {0, 2, 4, 6, 8, 10}
    best = min((step for step in losses if step), key=lambda step: losses[step])
    assert best != 10, "a run whose last step is its best shows nothing"
    assert known["selected_step"] == best
    assert read_metadata(project.lora)["lora_assets.step"] == str(best)


def test_its_loss_measured_from_the_file_is_the_one_it_was_chosen_by(project: TinyProject) -> None:
    results = project.run(*WILD, "export.dtype=fp32")
    known = results["lora_checkpoint"].published.metadata
    chosen = known["held_out_losses"][str(known["selected_step"])]
    assert results["metrics"].published.metadata["held_out_loss_lora"] == pytest.approx(chosen, rel=1e-5)
    assert results["metrics"].published.metadata["held_out_loss_base"] == pytest.approx(
        known["held_out_losses"]["0"], rel=1e-5
    )


@pytest.mark.setting("train.select")
def test_taking_the_last_step_instead_trains_nothing_again(project: TinyProject) -> None:
    project.run(*WILD, until="lora_checkpoint")
    best = sha256(project)
    last = project.run(*WILD, "train.select=last", until="lora_checkpoint")["lora_checkpoint"]
    assert last.items_computed == 0
    assert last.published.metadata["selected_step"] == 10
    assert sha256(project) != best


def test_measuring_more_often_changes_no_weight_of_the_last_step(project: TinyProject) -> None:
    seldom = project.run(*WILD, "train.select=last", "adapter.dropout=0.3", until="lora_checkpoint")
    often = project.run(
        *WILD, "train.select=last", "adapter.dropout=0.3", "train.evaluate_every=1", until="lora_checkpoint"
    )
    assert often["lora_checkpoint"].data_version == seldom["lora_checkpoint"].data_version


@pytest.mark.parametrize("step", [3, 4, 9])
def test_a_stopped_run_chooses_the_step_it_would_have_chosen(project: TinyProject, tmp_path: Path, step: int) -> None:
    whole = project.copy(tmp_path / "whole")
    whole.run(*WILD, until="lora_checkpoint")

    def stop(event: ProgressEvent) -> None:
        if event.stage == "lora_checkpoint" and event.done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    session = run.open_session(project.config, WILD, stop)
    with pytest.raises(Interrupted):
        run.run_until(session, "lora_checkpoint")
    session.close()
    project.run(*WILD, until="lora_checkpoint")
    assert sha256(project) == sha256(whole)


def test_with_nothing_held_out_the_last_step_is_taken(project: TinyProject) -> None:
    known = project.run(*WILD, "datasets.0.held_out=0", until="lora_checkpoint")["lora_checkpoint"].published.metadata
    assert (known["selected_step"], known["held_out_losses"]) == (10, {})


def test_a_worse_lora_is_not_promoted_and_the_champion_stays(project: TinyProject) -> None:
    champion = project.home / "outputs" / "tiny" / "champion.safetensors"
    strict = "gate.max_held_out_rise=0"
    good = project.run(*WILD, strict)
    assert good["metrics"].settled == {"promoted": True, "reasons": ["it is the project's champion"]}
    kept = champion.read_bytes()
    bad = project.run(*WILD, strict, "train.select=last")
    assert not bad["metrics"].settled["promoted"]
    assert "against the champion's" in bad["metrics"].settled["reasons"][0]
    assert champion.read_bytes() == kept != project.lora.read_bytes()
    card = (project.home / "outputs" / "tiny" / "README.md").read_text()
    assert "against the champion" in card
    again = project.run(*WILD, "train.select=last", "gate.max_held_out_rise=10")
    assert again["metrics"].action == "reused"
    told = json.loads((project.home / "outputs" / "tiny" / "metrics.json").read_text())
    assert again["metrics"].settled["promoted"] is (told["held_out_loss_lora"] < told["held_out_loss_base"])


def test_a_champion_is_measured_again_when_other_pictures_are_held_out(project: TinyProject) -> None:
    first = project.run(*WILD)
    again = project.run(*WILD, "datasets.0.held_out=0.4")["metrics"]
    measured = again.published.metadata["champion"]
    assert measured["weights_sha256"] == first["lora_checkpoint"].data_version
    assert measured["held_out_loss"] > 0


@pytest.mark.parametrize("setting", ["gate.judge", "gate.clip_path"])
def test_a_scorer_that_is_not_there_is_told_before_anything_is_computed(project: TinyProject, setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        project.run(f"{setting}={project.folder / 'nowhere'}")
    assert setting in str(caught.value) and "nowhere" in str(caught.value)
