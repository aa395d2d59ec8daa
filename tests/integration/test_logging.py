"""TensorBoard and Weights & Biases: the curves of a run, resumed or not; no key anywhere; failures stay theirs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.projects import TinyProject
from tests.wandb_file import history
from trainer_core import run
from trainer_core.errors import ConfigError, Interrupted
from trainer_core.train.observe.metrics import read_metrics
from trainer_core.types import ProgressEvent

KEY = "5ecret" * 6 + "abcd"
# Another seed than the finished run's, which would otherwise go on.
STEPS = ("train.steps=8", "train.seed=8", "train.checkpoint_every=4", "train.evaluate_every=4", "logging.every=2")
TENSORBOARD, OFFLINE = "logging.tensorboard=true", "logging.wandb=offline"


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished_sd15).copy(tmp_path / "project")


def outputs(project: TinyProject) -> Path:
    return project.home / "outputs" / "tiny"


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a folder: its own reader, with its own rule for resumed runs."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder)).Reload()
    return {tag: [(one.step, one.value) for one in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def told_offline(project: TinyProject) -> dict[str, list[tuple[int, float]]]:
    """The same of all files of Weights & Biases, in the order in which they are synced."""
    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(outputs(project).glob("wandb/offline-run-*/run-*.wandb")):
        for row in history(path):
            for name, value in row.items():
                if not name.startswith("_") and isinstance(value, float | int):
                    found.setdefault(name, []).append((row["_step"], value))
    return found


def stop_at(project: TinyProject, step: int, *overrides: str) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.stage == "lora_checkpoint" and event.done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    session = run.open_session(project.config, overrides, stop)
    with pytest.raises(Interrupted):
        run.run_until(session, "lora_checkpoint")
    session.close()


@pytest.mark.setting("logging.tensorboard", "logging.every")
def test_tensorboard_shows_what_the_run_measured(project: TinyProject) -> None:
    result = project.run(*STEPS, TENSORBOARD, until="lora_checkpoint")["lora_checkpoint"]
    (folder,) = (outputs(project) / "tensorboard").iterdir()
    assert folder.name == result.published.metadata["run"][:12]
    found = curves(folder)
    assert_all_of_the_run(found, result, [2, 4, 6, 8])
    assert {"speed/steps_per_s", "memory/mib"} <= found.keys()


def assert_all_of_the_run(found: dict[str, list[tuple[int, float]]], result: run.StageResult, steps: list[int]) -> None:
    """Compare curves with what the result says of the whole run."""
    lines = read_metrics(result.published.path / "training.jsonl")
    assert [line.step for line in lines] == steps
    for name, of_line in {"loss/train": "loss", "lr/unet": "lr", "grad_norm": "grad_norm"}.items():
        assert found[name] == [(line.step, pytest.approx(getattr(line, of_line))) for line in lines], name
    losses = sorted((int(step), loss) for step, loss in result.published.metadata["held_out_losses"].items())
    assert found["loss/held_out"] == [(step, pytest.approx(loss)) for step, loss in losses]
    assert {0, 4, steps[-1]} <= {step for step, _ in losses}


@pytest.mark.setting("logging.tensorboard", "logging.wandb", "train.steps")
def test_a_longer_run_shows_the_curves_from_their_beginning(project: TinyProject) -> None:
    project.run(*STEPS, until="lora_checkpoint")
    longer = (*STEPS, "train.steps=12", TENSORBOARD, OFFLINE)
    result = project.run(*longer, until="lora_checkpoint")["lora_checkpoint"]
    assert (result.items_computed, result.items_reused) == (4, 8)
    (folder,) = (outputs(project) / "tensorboard").iterdir()
    for found in (curves(folder), told_offline(project)):
        assert_all_of_the_run(found, result, [2, 4, 6, 8, 10, 12])


@pytest.mark.setting("logging.tensorboard", "logging.wandb", "train.checkpoint_every")
def test_a_resumed_run_goes_on_with_the_same_curves(project: TinyProject, tmp_path: Path) -> None:
    whole = project.copy(tmp_path / "whole")
    whole.run(*STEPS, TENSORBOARD, OFFLINE, until="lora_checkpoint")
    stop_at(project, 7, *STEPS, TENSORBOARD, OFFLINE)
    # The run goes back: what was told of step 6 is told again.
    (newest,) = project.store.glob("runs/*/checkpoints/step-00000007")
    (newest / "state.json").write_bytes(b"damaged")
    project.run(*STEPS, TENSORBOARD, OFFLINE, until="lora_checkpoint")
    for told in (
        lambda one: curves(next((outputs(one) / "tensorboard").iterdir())),
        told_offline,
    ):
        after: dict[str, Any] = told(project)
        expected: dict[str, Any] = told(whole)
        for name in ("loss/train", "loss/held_out", "lr/unet", "grad_norm"):
            assert after[name] == expected[name], name
    assert [step for step, _ in told_offline(project)["loss/train"]] == [2, 4, 6, 8]


@pytest.mark.setting("logging.wandb", "logging.wandb_project", "logging.wandb_run")
def test_weights_and_biases_offline_asks_nobody(project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    asked: dict[str, Any] = {}
    real: Callable[..., Any] = wandb.init

    def init(**arguments: Any) -> Any:
        asked.update(arguments)
        return real(**arguments)

    monkeypatch.setattr(wandb, "init", init)
    # Whoever asked the network would be refused at once.
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    project.run(*STEPS, OFFLINE, "logging.wandb_project=cats", "logging.wandb_run=third", until="lora_checkpoint")
    assert (asked["project"], asked["name"], asked["mode"]) == ("cats", "third", "offline")
    assert asked["config"]["optimizer.lr"] == 0.01 and asked["config"]["steps"] == 8
    assert [step for step, _ in told_offline(project)["loss/held_out"]] == [0, 4, 8]


@pytest.mark.setting("logging.tensorboard", "logging.wandb")
def test_samples_are_shown_where_the_curves_are(project: TinyProject) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    project.run(*STEPS, TENSORBOARD, OFFLINE, "sample.every=4")
    (folder,) = (outputs(project) / "tensorboard").glob("*/samples")
    reader = EventAccumulator(str(folder)).Reload()
    assert [one.step for one in reader.Images("samples/00/steps")] == [4, 8]
    assert {"samples/00/base", "samples/00/LoRA_1"} <= set(reader.Tags()["images"])
    pictures = list(outputs(project).glob("wandb/offline-run-*/files/media/images/samples/*.png"))
    # Step 8 is the LoRA itself at strength 1: one file.
    assert len(pictures) == 5, "base, two steps and three strengths"


@pytest.mark.setting("logging.tensorboard", "logging.wandb")
def test_telling_changes_no_weight_and_no_key(project: TinyProject) -> None:
    plain = project.run(*STEPS, until="lora_checkpoint")["lora_checkpoint"]
    again = project.run(*STEPS, TENSORBOARD, OFFLINE, until="lora_checkpoint")["lora_checkpoint"]
    assert (again.action, again.published.key) == ("reused", plain.published.key)


@pytest.mark.setting("logging.wandb")
def test_no_file_holds_the_key(project: TinyProject) -> None:
    project.run(*STEPS, TENSORBOARD, OFFLINE)
    holding = [path for path in project.folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert holding == []
    assert KEY not in project.config.read_text()
    for field in ("logging.wandb_api_key", "logging.api_key"):
        with pytest.raises(ConfigError, match="is not a setting"):
            project.plan(f"{field}={KEY}")


@pytest.mark.parametrize("method", ["start", "log", "finish"])
def test_a_service_that_fails_is_told_of_once_and_the_run_goes_on(
    project: TinyProject, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    from accelerate.tracking import TensorBoardTracker

    def broken(*arguments: object, **named: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(TensorBoardTracker, method, broken)
    result = project.run(*STEPS, TENSORBOARD, until="lora_checkpoint")["lora_checkpoint"]
    assert result.items_computed == 8
    assert caplog.text.count("logging.tensorboard failed (OSError: disk full)") == 1


def test_what_online_needs_is_told_before_training(project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(ConfigError, match="WANDB_API_KEY is not set"):
        project.plan("logging.wandb=online")
    from trainer_core.stages.preflight import services

    monkeypatch.setattr(services, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install lora-assets\[wandb\]"):
        project.plan("logging.wandb=offline")
