"""The settings of the run itself, by what they do to weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.projects import TinyProject
from trainer_core import run
from trainer_core.run import StageResult


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished_sd15).copy(tmp_path / "project")


def train(project: TinyProject, *overrides: str) -> StageResult:
    plain = ("train.select=last", "export.dtype=fp32", "datasets.0.held_out=0")
    return project.run(*plain, *overrides, until="lora_checkpoint")["lora_checkpoint"]


def weights(project: TinyProject) -> dict[str, torch.Tensor]:
    return load_file(project.lora)


@pytest.mark.setting("train.gradient_accumulation_steps")
def test_two_accumulated_micro_batches_make_one_step_and_see_twice_the_pictures(project: TinyProject) -> None:
    session = run.open_session(project.config, ("train.gradient_accumulation_steps=2", "datasets.0.held_out=0"))
    accumulated = session.length
    session.close()
    # 8 pictures of three shapes in twos: 3, 3 and 2 make five micro-batches.
    assert (accumulated.batches, accumulated.steps_per_epoch) == (5, 2.5)
    plain = train(project).data_version
    assert train(project, "train.gradient_accumulation_steps=2").data_version != plain


@pytest.mark.setting("train.batch_size")
def test_a_batch_of_one_takes_as_many_micro_batches_as_there_are_pictures(project: TinyProject) -> None:
    session = run.open_session(project.config, ("train.batch_size=1", "datasets.0.held_out=0"))
    assert (session.length.batches, session.length.samples_per_epoch) == (8, 8)
    session.close()


@pytest.mark.setting("train.seed")
def test_a_seed_gives_the_same_weights_again_and_another_others(project: TinyProject) -> None:
    first = train(project, "train.seed=1").data_version
    assert train(project, "train.seed=2").data_version != first
    assert train(project, "train.seed=1").data_version == first


@pytest.mark.setting("train.precision")
def test_bf16_rounds_what_is_computed_and_the_lora_stays_fp32(project: TinyProject) -> None:
    train(project)
    exact = weights(project)
    result = train(project, "train.precision=bf16")
    rounded = weights(project)
    assert any(not torch.equal(exact[name], rounded[name]) for name in exact)
    assert all(torch.allclose(exact[name], rounded[name], atol=0.05) for name in exact)
    checkpoints = project.store / "runs" / result.published.metadata["run"] / "checkpoints"
    state = load_file(next(checkpoints.glob("*/adapter.safetensors")))
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


@pytest.mark.setting("train.steps", "train.epochs")
def test_a_length_in_epochs_trains_what_as_many_steps_train(project: TinyProject) -> None:
    steps = train(project, "train.steps=10")
    epochs = train(project, "train.steps=null", "train.epochs=2")
    assert epochs.published.metadata["steps"] == 10
    assert epochs.data_version == steps.data_version
    assert epochs.items_computed == 0, "it is the same run, and only written again"


@pytest.mark.setting("logging.every")
def test_metrics_are_told_as_often_as_asked_for(project: TinyProject) -> None:
    result = train(project, "logging.every=3", "train.steps=8", "train.seed=3")
    lines = result.published.file("training.jsonl").read_text().splitlines()
    assert len(lines) == 3, "after 3, 6 and 8 steps"


@pytest.mark.setting("export.dtype")
@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_file_has_the_precision_that_is_asked_for(project: TinyProject, name: str, dtype: torch.dtype) -> None:
    train(project, f"export.dtype={name}")
    assert {tensor.dtype for tensor in weights(project).values()} == {dtype}
