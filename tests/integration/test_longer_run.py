"""A longer run goes on from the finished one, and ends with the bits of a run of that length from the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.projects import TinyProject
from trainer_core.run import StageResult

SETTINGS = ("train.checkpoint_every=4", "train.evaluate_every=2", "logging.every=2", "train.ema_decay=0.9")
STABLE = ("schedule.name=warmup_stable_decay", "schedule.decay_ratio=0.25", "schedule.warmup_steps=2")


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished_sd15).copy(tmp_path / "project")


def train(project: TinyProject, *settings: str) -> StageResult:
    return project.run(*SETTINGS, *settings, until="lora_checkpoint")["lora_checkpoint"]


def reasons(project: TinyProject, *settings: str) -> str:
    return "; ".join(project.plan(*SETTINGS, *settings)["lora_checkpoint"].reasons)


def assert_same_result(first: StageResult, second: StageResult) -> None:
    """Compare weights, the chosen step and everything that was measured and kept on the way."""
    assert first.published.data_version == second.published.data_version
    for name in ("weights_sha256", "selected_step", "held_out_losses"):
        assert first.published.metadata[name] == second.published.metadata[name], name
    snapshots = {
        name: record.sha256
        for result in (first, second)
        for name, record in result.published.files.items()
        if name.startswith("snapshots/")
    }
    for result in (first, second):
        for name, sha256 in snapshots.items():
            assert result.published.files[name].sha256 == sha256


@pytest.mark.parametrize("select", ["best", "last"])
@pytest.mark.setting("train.steps")
def test_more_steps_at_a_constant_rate_go_on_from_the_end(project: TinyProject, tmp_path: Path, select: str) -> None:
    longer = ("train.steps=10", f"train.select={select}", "sample.every=3")
    whole = train(project.copy(tmp_path / "whole"), *longer)
    train(project, "train.steps=6", "sample.every=3")
    assert "goes on from step 6 of the finished run" in reasons(project, *longer)
    result = train(project, *longer)
    assert (result.items_computed, result.items_reused) == (4, 6)
    assert_same_result(result, whole)
    assert reasons(project, *longer) == ""


@pytest.mark.setting("schedule.decay_ratio")
def test_a_stable_schedule_goes_on_from_before_its_decay(project: TinyProject, tmp_path: Path) -> None:
    whole = train(project.copy(tmp_path / "whole"), *STABLE, "train.steps=16")
    # The decay of 8 steps begins at step 6, which checkpoint_every does not save.
    train(project, *STABLE, "train.steps=8")
    assert "goes on from step 6 of the run of 8 steps" in reasons(project, *STABLE, "train.steps=16")
    result = train(project, *STABLE, "train.steps=16")
    assert (result.items_computed, result.items_reused) == (10, 6)
    assert_same_result(result, whole)


def test_a_schedule_that_depends_on_the_length_starts_over_and_plan_says_so(project: TinyProject) -> None:
    train(project, "schedule.name=cosine", "train.steps=4")
    text = reasons(project, "schedule.name=cosine", "train.steps=8")
    assert "starts over" in text and "the cosine schedule depends on train.steps" in text
    assert train(project, "schedule.name=cosine", "train.steps=8").items_computed == 8


def test_losses_that_the_longer_run_measures_at_other_steps_make_it_start_over(project: TinyProject) -> None:
    train(project, "train.evaluate_every=3", "train.steps=6")
    text = reasons(project, "train.steps=10")
    assert "starts over" in text and "held-out losses of steps [2, 4] are lost" in text
    assert train(project, "train.steps=10").items_computed == 10


def test_a_run_with_other_settings_is_not_gone_on_from(project: TinyProject) -> None:
    train(project, "train.steps=4")
    for other in ("optimizer.lr=2e-3", "train.seed=8", "adapter.rank=2"):
        assert "goes on" not in reasons(project, "train.steps=8", other)
    assert train(project, "train.steps=8", "train.seed=8").items_computed == 8


def test_a_damaged_checkpoint_is_not_gone_on_from(project: TinyProject) -> None:
    train(project, "train.steps=4")
    for weights in (project.store / "runs").glob("*/checkpoints/step-00000004/adapter.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    assert train(project, "train.steps=8").items_computed == 8
