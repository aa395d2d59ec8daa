"""A run that was stopped goes on bit for bit; a run that went wrong keeps its last good checkpoint."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.projects import TinyProject
from trainer_core import run
from trainer_core.errors import Interrupted, ModelError, NonFiniteError
from trainer_core.types import ProgressEvent

STEPS = ("train.steps=7", "train.checkpoint_every=3", "adapter.dropout=0.3", "noise.offset=0.1")


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished_sd15).copy(tmp_path / "project")


def _lora_sha256(project: TinyProject) -> str:
    return hashlib.sha256(project.lora.read_bytes()).hexdigest()


def _run_with(project: TinyProject, on_event: Callable[[ProgressEvent], None]) -> None:
    session = run.open_session(project.config, STEPS, on_event)
    try:
        run.run_until(session, "lora_checkpoint")
    finally:
        session.close()


def _stop_at(step: int, number: signal.Signals) -> Callable[[ProgressEvent], None]:
    def on_event(event: ProgressEvent) -> None:
        if event.stage == "lora_checkpoint" and event.done == step:
            os.kill(os.getpid(), number)

    return on_event


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_next_run_ends_with_the_same_file(
    project: TinyProject, tmp_path: Path, number: signal.Signals
) -> None:
    whole = project.copy(tmp_path / "whole")
    whole.run(*STEPS, until="lora_checkpoint")
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match="after step 4; state saved"):
        _run_with(project, _stop_at(4, number))
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    result = project.run(*STEPS, until="lora_checkpoint")["lora_checkpoint"]
    assert (result.items_computed, result.items_reused) == (3, 4)
    assert _lora_sha256(project) == _lora_sha256(whole)


@pytest.mark.setting("train.checkpoint_every")
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_used(project: TinyProject, tmp_path: Path) -> None:
    whole = project.copy(tmp_path / "whole")
    whole.run(*STEPS, until="lora_checkpoint")
    with pytest.raises(Interrupted):
        _run_with(project, _stop_at(4, signal.SIGTERM))
    newest = max(project.store.glob("runs/*/checkpoints/step-00000004"), key=lambda path: path.stat().st_mtime_ns)
    damaged = bytearray((newest / "optimizer.safetensors").read_bytes())
    damaged[-5] ^= 1
    (newest / "optimizer.safetensors").write_bytes(damaged)
    result = project.run(*STEPS, until="lora_checkpoint")["lora_checkpoint"]
    assert result.items_computed == 4
    assert _lora_sha256(project) == _lora_sha256(whole)
    assert (newest.parent / "damaged-step-00000004").exists()


def test_a_loss_that_is_not_finite_names_step_and_samples_and_keeps_the_last_good_checkpoint(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer_core.train import step

    calls = 0
    real = step.training_loss

    def poisoned(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        loss = real(*arguments)  # type: ignore[arg-type]
        return loss * float("nan") if calls == 5 else loss

    monkeypatch.setattr(step, "training_loss", poisoned)
    with pytest.raises(NonFiniteError, match="the loss of step 5 is nan for pictures/") as caught:
        _run_with(project, lambda event: None)
    assert len(caught.value.samples) in (1, 2)
    kept = sorted(path.name for path in project.store.glob("runs/*/checkpoints/step-*"))
    assert "step-00000003" in kept
    assert not any(name > "step-00000004" for name in kept)


@pytest.mark.setting("train.keep_last", "train.checkpoint_every")
def test_only_the_last_checkpoints_are_kept(project: TinyProject) -> None:
    project.run("train.steps=8", "train.checkpoint_every=1", "train.keep_last=3", until="lora_checkpoint")
    (folder,) = (path.parent for path in project.store.glob("runs/*/checkpoints/step-00000008"))
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000006", "step-00000007", "step-00000008"]


@pytest.mark.setting("train.gradient_checkpointing")
def test_gradient_checkpointing_gives_the_same_weights(project: TinyProject) -> None:
    plain = project.run(until="lora_checkpoint")["lora_checkpoint"]
    for folder in ("objects/lora_checkpoint", "runs"):
        shutil.rmtree(project.store / folder)
    again = project.run("train.gradient_checkpointing=true", until="lora_checkpoint")["lora_checkpoint"]
    assert again.items_computed == 4
    assert again.data_version == plain.data_version


def test_accumulated_micro_batches_are_those_of_a_larger_batch_in_order(project: TinyProject) -> None:
    from trainer_core.data.epoch.batch_order import BatchOrder

    session = run.open_session(project.config)
    small = BatchOrder.of(session.workspace.manifest.samples, 1, 7)
    session.close()
    first_epoch = [draw.sample_id for number in range(small.batches_per_epoch) for draw in small.micro_batch(number)]
    assert sorted(first_epoch) == sorted(sample_id for sample_id, _, _ in small.samples)


def test_two_trainings_in_one_process_may_differ_in_precision(project: TinyProject) -> None:
    first = project.run("train.precision=bf16", until="lora_checkpoint")["lora_checkpoint"]
    second = project.run("train.precision=fp32", "train.seed=8", until="lora_checkpoint")["lora_checkpoint"]
    assert (first.action, second.action) == ("computed", "computed")


def test_snapshots_are_the_same_whatever_was_trained_before(project: TinyProject, tmp_path: Path) -> None:
    project.run("sample.every=2", until="lora_checkpoint")
    after_others = sorted(project.store.glob("objects/lora_checkpoint/*/snapshots/*"))
    fresh = project.copy(tmp_path / "fresh")
    shutil.rmtree(fresh.home)
    fresh.run("sample.every=2", until="lora_checkpoint")
    from_nothing = sorted(fresh.store.glob("objects/lora_checkpoint/*/snapshots/*"))
    assert [path.name for path in from_nothing] == ["step-00000002.safetensors", "step-00000004.safetensors"]
    assert [path.read_bytes() for path in after_others] == [path.read_bytes() for path in from_nothing]


def test_weights_that_do_not_fit_the_files_precision_are_refused(project: TinyProject) -> None:
    wild = ("adapter.alpha=8192", "adapter.rank=1", "optimizer.lr=9.0", "optimizer.max_grad_norm=0")
    with pytest.raises(NonFiniteError, match=r"export\.dtype|Lower optimizer\.lr"):
        project.run(*wild, until="lora_checkpoint")
    assert not list(project.home.glob("outputs/tiny/.tmp-*"))


def test_a_base_model_that_changes_under_a_run_is_refused(project: TinyProject) -> None:
    weights = project.base / "unet" / "diffusion_pytorch_model.safetensors"
    session = run.open_session(project.config, ("train.seed=9",), lambda event: weights.touch())
    with pytest.raises(ModelError, match="changed while it was in use"):
        run.run_until(session, "lora_checkpoint")
    session.close()
