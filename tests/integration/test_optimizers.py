"""Settings of optimizer and schedule in whole runs: they change the LoRA, and stopped runs go on bit for bit."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.projects import TinyProject
from trainer_core import run
from trainer_core.config.optimizers import OPTIMIZERS
from trainer_core.errors import ConfigError, Interrupted
from trainer_core.types import ProgressEvent

KINDS = (
    *("adamw8bit", "lion", "sgdnesterov", "adafactor", "prodigy", "dadaptadam", "adamwschedulefree"),
    "pytorch_optimizer.Gravity",
)
"""One of each kind, the last of which draws random numbers; the contract tests have all names."""


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished_sd15).copy(tmp_path / "project")


def settings_of(name: str, steps: int) -> tuple[str, ...]:
    row = OPTIMIZERS.get(name)
    lr = row.lr if row is not None and row.adaptive else 1e-2
    return (
        *(f"optimizer.name={name}", f"optimizer.lr={lr}", "train.select=last", f"train.steps={steps}"),
        *(f"train.evaluate_every={steps}", "train.checkpoint_every=3", "logging.every=1"),
    )


def train(project: TinyProject, *settings: str) -> dict[str, Any]:
    return dict(project.run(*settings, until="lora_checkpoint")["lora_checkpoint"].published.metadata)


def stop(project: TinyProject, step: int, *settings: str) -> None:
    def on_event(event: ProgressEvent) -> None:
        if event.stage == "lora_checkpoint" and event.done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    session = run.open_session(project.config, settings, on_event)
    with pytest.raises(Interrupted):
        run.run_until(session, "lora_checkpoint")
    session.close()


def sha256(project: TinyProject) -> str:
    return hashlib.sha256(project.lora.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.setting("optimizer.name")
def test_a_stopped_run_of_any_kind_of_optimizer_ends_with_the_same_file(
    project: TinyProject, tmp_path: Path, name: str
) -> None:
    settings = settings_of(name, 8)
    whole = project.copy(tmp_path / "whole")
    losses = train(whole, *settings)["held_out_losses"]
    assert losses["8"] != losses["0"]
    stop(project, 5, *settings)
    resumed = project.run(*settings, until="lora_checkpoint")["lora_checkpoint"]
    assert resumed.items_computed == 3
    assert sha256(project) == sha256(whole)


WEIGHTS = ("train.select=last", "train.steps=6", "train.evaluate_every=6")
"""A run whose last weights become the file."""


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(("optimizer.lr=5e-3",), marks=pytest.mark.setting("optimizer.lr")),
        pytest.param(("optimizer.weight_decay=0.9",), marks=pytest.mark.setting("optimizer.weight_decay")),
        pytest.param(("optimizer.betas=[0.5, 0.6]",), marks=pytest.mark.setting("optimizer.betas")),
        pytest.param(("optimizer.eps=1e-3",), marks=pytest.mark.setting("optimizer.eps")),
        pytest.param(("optimizer.args={amsgrad: true}", "optimizer.betas=[0.5, 0.6]"), id="args"),
        pytest.param(("optimizer.lora_plus_ratio=4",), marks=pytest.mark.setting("optimizer.lora_plus_ratio")),
        pytest.param(("optimizer.max_grad_norm=1e-9",), marks=pytest.mark.setting("optimizer.max_grad_norm")),
        pytest.param(("schedule.name=cosine",), marks=pytest.mark.setting("schedule.name")),
        pytest.param(("schedule.name=rex", "schedule.warmup_ratio=0.5"), id="rex"),
        pytest.param(("train.ema_decay=0.9",), marks=pytest.mark.setting("train.ema_decay")),
    ],
)
def test_the_settings_change_the_lora_and_leave_the_caches(project: TinyProject, settings: tuple[str, ...]) -> None:
    project.run(*WEIGHTS, until="lora_checkpoint")
    before = sha256(project)
    results = project.run(*WEIGHTS, *settings, until="lora_checkpoint")
    actions = {name: result.action for name, result in results.items()}
    assert actions.pop("lora_checkpoint") == "computed"
    assert set(actions.values()) == {"reused"}
    assert sha256(project) != before


@pytest.mark.parametrize("limit", [0.0, 1e-3])
@pytest.mark.setting("optimizer.max_grad_norm")
def test_gradients_are_scaled_down_to_the_norm_and_zero_is_no_limit(project: TinyProject, limit: float) -> None:
    from safetensors.torch import load_file

    plain = ("optimizer.name=torch.optim.SGD", "optimizer.lr=1.0", "optimizer.weight_decay=0", "train.steps=1")
    told = train(project, *plain, f"optimizer.max_grad_norm={limit}", "logging.every=1")
    folder = project.store / "runs" / told["run"]
    weights = load_file(folder / "checkpoints" / "step-00000001" / "adapter.safetensors")
    # B starts at zero, and the gradient of A is zero while it is: plain SGD's first step is the gradient of B.
    moved = sum(float(tensor.square().sum()) for name, tensor in weights.items() if "lora_B" in name) ** 0.5
    norm = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["grad_norm"]
    assert norm > 1e-3
    assert moved == pytest.approx(limit or norm, rel=1e-4)


def test_what_an_optimizer_would_not_take_stops_before_anything_is_computed(project: TinyProject) -> None:
    with pytest.raises(ConfigError, match="Did you mean `d_coef`"):
        project.run("optimizer.name=prodigy", "optimizer.args={d_coeff: 2.0}")


@pytest.mark.setting("train.ema_decay")
def test_a_stopped_run_with_an_average_ends_with_the_same_file(project: TinyProject, tmp_path: Path) -> None:
    settings = (*settings_of("adamw", 8), "train.ema_decay=0.8", "schedule.name=cosine", "sample.every=3")
    whole = project.copy(tmp_path / "whole")
    train(whole, *settings)
    stop(project, 5, *settings)
    project.run(*settings, until="lora_checkpoint")
    assert sha256(project) == sha256(whole)
    snapshots = [sorted(one.store.glob("objects/lora_checkpoint/*/snapshots/*")) for one in (project, whole)]
    assert [path.read_bytes() for path in snapshots[0]] == [path.read_bytes() for path in snapshots[1]]


@pytest.mark.parametrize("settings", [("train.ema_decay=0.8",), ("optimizer.name=adamwschedulefree",)])
@pytest.mark.setting("train.ema_decay", "optimizer.name")
def test_measuring_an_average_changes_nothing_of_the_run(project: TinyProject, settings: tuple[str, ...]) -> None:
    seldom = train(project, *WEIGHTS, *settings)
    often = train(project, *WEIGHTS, *settings, "train.evaluate_every=1", "sample.every=1")
    assert often["weights_sha256"] == seldom["weights_sha256"]


@pytest.mark.parametrize("settings", [("train.ema_decay=0.8",), ("optimizer.name=adamwschedulefree",)])
@pytest.mark.setting("train.ema_decay", "optimizer.name")
def test_the_average_is_what_is_measured_and_exported(project: TinyProject, settings: tuple[str, ...]) -> None:
    results = project.run(*WEIGHTS, *settings, "export.dtype=fp32")
    known = results["lora_checkpoint"].published.metadata["held_out_losses"]
    measured = results["metrics"].published.metadata["held_out_loss_lora"]
    assert measured == pytest.approx(known["6"], rel=1e-5)
    (checkpoint,) = project.store.glob(f"runs/{results['lora_checkpoint'].published.metadata['run']}/checkpoints/*6")
    from safetensors.torch import load_file

    raw, exported = load_file(checkpoint / "adapter.safetensors"), load_file(project.lora)
    down = next(name for name in raw if name.endswith("lora_B.weight"))
    assert not any(
        tensor.shape == raw[down].shape and bool((tensor == raw[down]).all()) for tensor in exported.values()
    )
