"""The base is measured and rendered once: by the first run on it, for all that follow."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.projects import TinyProject
from tests.unit.cli.support import call, told
from trainer_core.errors import Interrupted
from trainer_core.sampling.evaluate import Evaluator
from trainer_core.stages.rendering import render_samples

SHORT = ("train.steps=2", "train.evaluate_every=1", "train.seed=11")


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished_sd15).copy(tmp_path / "project")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(sample, noise level) of every loss that is measured."""
    pairs: list[tuple[str, int]] = []
    real = Evaluator._loss

    def loss(self: Evaluator, denoiser: Any, batch: Any) -> Any:
        pairs.extend((sample.sample_id, level) for sample, level in batch)
        return real(self, denoiser, batch)

    monkeypatch.setattr(Evaluator, "_loss", loss)
    return pairs


def test_the_base_is_measured_once_for_training_and_metrics_and_later_runs(
    project: TinyProject, measured: list[tuple[str, int]]
) -> None:
    first = project.run(*SHORT, "noise.max_timestep=950", until="metrics")
    # the base, two steps, the finished LoRA and the champion, at five levels
    assert len(measured) == 5 * len(set(measured)) == 25 * len({name for name, _ in measured})
    known = first["lora_checkpoint"].published.metadata["held_out_losses"]["0"]
    assert first["metrics"].published.metadata["held_out_loss_base"] == pytest.approx(known, rel=1e-12)
    measured.clear()
    project.run(*SHORT, "noise.max_timestep=950", "train.seed=12", until="lora_checkpoint")
    assert len(measured) == 2 * len(set(measured))


def test_another_noise_is_measured_anew(project: TinyProject, measured: list[tuple[str, int]]) -> None:
    project.run(*SHORT, "noise.max_timestep=900", until="lora_checkpoint")
    assert len(measured) == 3 * len(set(measured))


@pytest.mark.setting("train.evaluate_samples")
def test_no_more_held_out_pictures_are_measured_than_asked(
    project: TinyProject, measured: list[tuple[str, int]]
) -> None:
    whole = project.run(*SHORT, "datasets.0.held_out=0.5", until="metrics")["metrics"]
    assert len({name for name, _ in measured}) == whole.published.metadata["held_out_samples"] == 4
    measured.clear()
    few = ("train.evaluate_samples=2", "datasets.0.held_out=0.5")
    capped = project.run(*SHORT, *few, until="metrics")["metrics"]
    assert len({name for name, _ in measured}) == capped.published.metadata["held_out_samples"] == 2
    assert set(capped.published.metadata["by_sample"]) < set(whole.published.metadata["by_sample"])


def test_a_signal_during_a_measurement_ends_the_run_and_nothing_is_lost(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (*SHORT, "train.batch_size=1", "train.checkpoint_every=0")
    whole = project.copy(project.folder.parent / "whole").run(*settings, until="lora_checkpoint")["lora_checkpoint"]
    real, batches = Evaluator._loss, 0

    def loss(self: Evaluator, denoiser: Any, batch: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        assert batches <= 7, "the measurement went on"
        return real(self, denoiser, batch)

    monkeypatch.setattr(Evaluator, "_loss", loss)
    with pytest.raises(Interrupted, match="after step 1"):
        project.run(*settings, until="lora_checkpoint")
    monkeypatch.setattr(Evaluator, "_loss", real)
    again = project.run(*settings, until="lora_checkpoint")["lora_checkpoint"]
    assert again.items_reused == 1
    assert again.published.metadata["held_out_losses"] == whole.published.metadata["held_out_losses"]
    assert again.data_version == whole.data_version


def test_pictures_of_the_base_are_rendered_once(project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    project.run()
    columns: list[int] = []
    real = render_samples.render

    def render(*arguments: Any) -> Any:
        columns.append(1)
        return real(*arguments)

    monkeypatch.setattr(render_samples, "render", render)
    base = (project.home / "outputs" / "tiny" / "samples.png").read_bytes()
    again = project.run("train.seed=99")["samples"]
    assert len(columns) == 3
    assert (again.published.path / "pictures" / "base" / "00.png").is_file()
    assert base != (project.home / "outputs" / "tiny" / "samples.png").read_bytes()
    project.run("train.seed=99", "sample.seed=4")
    assert len(columns) == 3 + 4


def test_plan_says_what_measuring_costs(project: TinyProject) -> None:
    answer = told(call("plan", str(project.config), "--json", "--set", "datasets.0.held_out=0.5"))
    assert answer["evaluation"]["measured"] == answer["evaluation"]["held_out"] == 4
    assert answer["evaluation"]["share_of_training"] > 0.05
