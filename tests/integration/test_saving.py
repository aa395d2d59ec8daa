"""LoRA files published on the way: when, under which names, what is kept, and whatever kills a run."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.projects import TinyProject, worsen
from trainer_core import run
from trainer_core.errors import ConfigError, Interrupted
from trainer_core.export.safetensors_file import read_metadata
from trainer_core.run import StageResult
from trainer_core.stages.publishing.outputs import check_outputs, read_checksums
from trainer_core.types import ProgressEvent

EVERY_TWO = ("train.steps=8", "save.every=2", "train.checkpoint_every=3", "train.evaluate_every=4")


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished_sd15).copy(tmp_path / "project")


def outputs(project: TinyProject) -> Path:
    return project.home / "outputs" / "tiny"


def saved(project: TinyProject, name: str = "tiny") -> dict[str, str]:
    """Name -> SHA-256 of every file of a step."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(outputs(project).glob(f"{name}-step*"))
    }


def train(project: TinyProject, *overrides: str) -> StageResult:
    return project.run(*overrides, until="lora_checkpoint")["lora_checkpoint"]


def train_until(project: TinyProject, step: int, number: signal.Signals, *overrides: str) -> None:
    """Train in this process until a signal comes after `step`."""

    def stop(event: ProgressEvent) -> None:
        if event.stage == "lora_checkpoint" and event.done == step:
            os.kill(os.getpid(), number)

    session = run.open_session(project.config, overrides, stop)
    try:
        run.run_until(session, "lora_checkpoint")
    finally:
        session.close()


@pytest.mark.setting("save.every", "export.formats")
def test_every_n_steps_a_file_of_each_format_is_published_with_its_checksum(project: TinyProject) -> None:
    result = train(project, *EVERY_TWO, "export.formats=[diffusers, kohya]")
    steps = ("00000002", "00000004", "00000006", "00000008")
    names = {f"tiny-step{step}{kind}.safetensors" for step in steps for kind in ("", ".kohya")}
    assert set(saved(project)) == names
    checksums = read_checksums(outputs(project) / "checksums.sha256")
    assert {name: checksums[name] for name in names} == saved(project)
    assert all(row["expected"] == row["actual"] for row in check_outputs(outputs(project)))
    assert [one["step"] for one in result.published.metadata["saved"]] == [2, 4, 6, 8]
    assert read_metadata(outputs(project) / "tiny-step00000004.safetensors")["lora_assets.step"] == "4"


def test_a_saved_file_is_what_a_run_of_so_many_steps_would_give_and_is_proven(
    project: TinyProject, tmp_path: Path
) -> None:
    result = train(project, *EVERY_TWO)
    shorter = project.copy(tmp_path / "shorter")
    train(shorter, "train.steps=4", "train.select=last")
    found, expected = (load_file(path) for path in (outputs(project) / "tiny-step00000004.safetensors", shorter.lora))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    proof = json.loads(result.published.file("saves/step-00000004/proof.json").read_bytes())
    assert [one["ok"] for one in proof["files"]] == [True, True]


@pytest.mark.setting("save.every_epochs", "sample.every_epochs")
def test_epochs_are_counted_with_the_arithmetic_of_the_run(project: TinyProject) -> None:
    session = run.open_session(project.config, ("train.steps=null", "train.epochs=2"))
    per_epoch, total = session.length.steps_per_epoch, session.length.steps
    session.close()
    result = train(project, "train.steps=null", "train.epochs=2", "save.every_epochs=1", "sample.every_epochs=0.5")
    assert total == 2 * per_epoch
    assert result.published.metadata["steps"] == total
    assert [one["step"] for one in result.published.metadata["saved"]] == [per_epoch, total]
    snapshots = [name for name in result.published.files if name.startswith("snapshots/")]
    assert len(snapshots) == 4


@pytest.mark.setting("save.every")
def test_files_appear_while_the_run_goes(project: TinyProject) -> None:
    with pytest.raises(Interrupted):
        train_until(project, 5, signal.SIGTERM, *EVERY_TWO)
    assert set(saved(project)) == {
        f"tiny-step0000000{step}{kind}.safetensors" for step in (2, 4) for kind in ("", ".comfyui")
    }
    assert all(row["expected"] == row["actual"] for row in check_outputs(outputs(project)))


@pytest.mark.setting("save.keep_last")
def test_the_last_files_are_kept_and_no_weights_of_others(project: TinyProject) -> None:
    result = train(project, *EVERY_TWO, "save.keep_last=1", "sample.every=4")
    assert {name[:17] for name in saved(project)} == {"tiny-step00000008"}
    folder = project.store / "runs" / result.published.metadata["run"] / "snapshots"
    assert sorted(path.name[:13] for path in folder.iterdir()) == ["step-00000004", "step-00000008"]


@pytest.mark.setting("save.keep_best")
def test_the_best_files_are_kept_beside_the_last(project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    worsen(monkeypatch, 1, 3, 4, 6, 7, 8)
    kept = ("save.every=1", "save.keep_last=1", "save.keep_best=2")
    known = train(project, "train.steps=8", *kept).published.metadata
    losses = {int(step): loss for step, loss in known["held_out_losses"].items()}
    assert set(range(9)) == set(losses), "each saved step is measured"
    assert max(losses[2], losses[5]) + 0.5 < min(losses[step] for step in (1, 3, 4, 6, 7, 8))
    assert [save["step"] for save in known["saved"]] == [2, 5, 8]
    assert {int(name[9:17]) for name in saved(project)} == {2, 5, 8}
    assert all(save["held_out_loss"] == losses[save["step"]] for save in known["saved"])


def _killed(config: Path, overrides: tuple[str, ...], step: int) -> None:
    def kill(event: ProgressEvent) -> None:
        if event.stage == "lora_checkpoint" and event.done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    session = run.open_session(config, overrides, kill)
    run.run_until(session, "lora_checkpoint")


KEPT = (*EVERY_TWO, "save.keep_last=2", "save.keep_best=1", "train.seed=11")


@pytest.fixture(scope="module")
def whole(finished_sd15: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyProject:
    """A project whose run with `KEPT` nothing stopped."""
    project = TinyProject(finished_sd15).copy(tmp_path_factory.mktemp("whole") / "project")
    train(project, *KEPT)
    return project


@pytest.mark.setting("save.every", "save.keep_last", "save.keep_best", "train.checkpoint_every")
@pytest.mark.parametrize("step", [4, 6, 7])
def test_a_killed_run_ends_with_the_same_files(project: TinyProject, whole: TinyProject, step: int) -> None:
    child = multiprocessing.get_context("fork").Process(target=_killed, args=(project.config, KEPT, step))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    result = train(project, *KEPT)
    assert 0 < result.items_computed < 8
    assert saved(project) == saved(whole) != {}
    assert project.lora.read_bytes() == whole.lora.read_bytes()


def test_the_result_alone_brings_lost_files_back(project: TinyProject) -> None:
    train(project, *EVERY_TWO)
    before = saved(project)
    shutil.rmtree(outputs(project))
    assert train(project, *EVERY_TWO).action == "reused"
    assert saved(project) == before


def test_other_formats_export_the_saved_steps_again_and_train_nothing(project: TinyProject) -> None:
    train(project, *EVERY_TWO)
    again = train(project, *EVERY_TWO, "export.formats=[kohya]")
    assert again.items_computed == 0
    assert set(saved(project)) == {f"tiny-step0000000{step}.safetensors" for step in (2, 4, 6, 8)}


def test_files_of_steps_that_are_saved_no_more_go_and_a_users_own_stay(project: TinyProject) -> None:
    train(project, *EVERY_TWO)
    edited = outputs(project) / "tiny-step00000002.safetensors"
    edited.write_bytes(b"mine")
    own = outputs(project) / "tiny-step00000099.safetensors"
    own.write_bytes(b"mine too")
    train(project)
    assert set(saved(project)) == {edited.name, own.name}


@pytest.mark.setting("save.output_name")
def test_files_have_the_name_that_is_asked_for_and_nothing_is_trained_again(project: TinyProject) -> None:
    train(project, *EVERY_TWO)
    again = train(project, *EVERY_TWO, "save.output_name=ohwx_v2")
    assert again.action == "reused"
    assert (outputs(project) / "ohwx_v2.safetensors").read_bytes() == project.lora.read_bytes()
    assert len(saved(project, "ohwx_v2")) == 8


def test_a_file_that_cannot_be_written_on_the_way_does_not_end_the_training(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from trainer_core.errors import ExportError
    from trainer_core.stages.training import intermediate_saves

    real: Callable[..., Any] = intermediate_saves.export_all

    def broken(context: object, modules: object, adapter: object, step: int) -> object:
        if step == 2:
            raise ExportError("the file does not hold what was trained")
        return real(context, modules, adapter, step)

    monkeypatch.setattr(intermediate_saves, "export_all", broken)
    result = train(project, *EVERY_TWO)
    assert [one["step"] for one in result.published.metadata["saved"]] == [4, 6, 8]
    assert "the LoRA of step 2 is not published, and training goes on" in caplog.text
    assert project.lora.exists()


def runs(project: TinyProject) -> set[str]:
    return {path.name for path in (project.store / "runs").iterdir()}


def make_old(project: TinyProject, name: str, days: float) -> None:
    for path in (project.store / "runs" / name).rglob("*"):
        then = path.stat().st_mtime - days * 86_400
        os.utime(path, (then, then))


@pytest.mark.setting("save.max_age_days")
def test_runs_that_nothing_needs_go_when_they_are_too_old(project: TinyProject) -> None:
    (first,) = runs(project)
    train(project, "train.seed=20")
    (second,) = runs(project) - {first}
    for name in (first, second):
        make_old(project, name, 10)
    train(project, "train.seed=21", "save.max_age_days=30")
    assert {first, second} <= runs(project)
    train(project, "train.seed=22", "save.max_age_days=5")
    assert second not in runs(project)
    assert first in runs(project), "the champion was made from it"


@pytest.mark.setting("save.max_age_days", "save.disk_budget_gib")
def test_a_run_of_a_current_result_or_of_another_project_stays(project: TinyProject) -> None:
    from trainer_core.store import Store
    from trainer_core.store.runs import claim

    (current,) = runs(project)
    with pytest.raises(Interrupted):
        train_until(project, 2, signal.SIGTERM, "train.seed=30")
    (shared,) = runs(project) - {current}
    store = Store.open(project.store)
    claim(store.root, shared, "another")
    store.close()
    for name in (current, shared):
        make_old(project, name, 100)
    with pytest.raises(Interrupted):
        train_until(project, 2, signal.SIGTERM, "train.seed=31", "save.max_age_days=1")
    assert {current, shared} <= runs(project)


@pytest.mark.setting("save.disk_budget_gib")
def test_the_budget_removes_the_idlest_run_that_nothing_needs_and_refuses_what_cannot_fit(
    project: TinyProject,
) -> None:
    (current,) = runs(project)
    for seed in (40, 41):
        with pytest.raises(Interrupted):
            train_until(project, 2, signal.SIGTERM, f"train.seed={seed}")
    sizes = {
        name: sum(path.stat().st_size for path in (project.store / "runs" / name).rglob("*") if path.is_file())
        for name in runs(project)
    }
    with pytest.raises(ConfigError) as caught:
        train(project, "train.seed=42", "save.disk_budget_gib=0.000001")
    told = str(caught.value)
    assert "save.disk_budget_gib" in told and "MiB" in told and "3 checkpoints" in told
    assert set(sizes) <= runs(project), "nothing is removed where that would not be enough"
    fits = (sizes[current] * 4 + max(sizes.values())) / 2**30
    train(project, "train.seed=42", f"save.disk_budget_gib={fits}")
    assert current in runs(project) or len(runs(project)) < 4


@pytest.mark.setting("train.keep_last")
def test_a_run_that_the_disk_cannot_hold_is_refused_before_its_first_step(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer_core.errors import StoreError
    from trainer_core.stages.training import disk_budget

    monkeypatch.setattr(disk_budget.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10_000))
    with pytest.raises(StoreError, match=r"needs .* MiB \(3 checkpoints .* are free"):
        train(project, "train.seed=50")
