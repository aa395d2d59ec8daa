"""The settings of noise and loss in real runs: each changes the LoRA, and all of them together resume bit for bit."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.projects import TinyProject, computed
from trainer_core import run
from trainer_core.errors import Interrupted
from trainer_core.stages.training import training_run
from trainer_core.types import ProgressEvent, Sample

# Of two steps, since Adam's first goes by the gradient's sign alone.
SHORT = ("train.steps=2", "train.select=last", "train.checkpoint_every=0", "export.formats=[diffusers]")
TIMESTEPS = ("noise.timestep_sampling=mode", "noise.min_timestep=400", "noise.max_timestep=300", "noise.ip_gamma=0.1")
EACH: dict[str, tuple[str, ...]] = {
    "sd15": (
        *TIMESTEPS,
        *("loss.type=l1", "loss.type=huber", "loss.type=smooth_l1"),
        "noise.timestep_sampling=sigmoid",
        "noise.offset=0.1",
        "noise.adaptive_scale=0.2",
        "noise.multires_iterations=4",
        "noise.zero_terminal_snr=true",
        "noise.prediction=v_prediction",
        "loss.min_snr_gamma=0.05",
        "loss.debiased=true",
    ),
    "flux1": (
        *TIMESTEPS,
        "loss.type=huber",
        "noise.timestep_sampling=sigmoid",
        "noise.timestep_sampling=cosmap",
        "noise.timestep_sampling=uniform",
        "noise.logit_mean=0.5",
        "noise.logit_std=2",
        "noise.shift=2",
        "noise.guidance=4",
    ),
}
TOGETHER: dict[str, tuple[str, str]] = {
    "loss.huber_c": ("loss.type=huber", "loss.huber_c=0.5"),
    "loss.huber_schedule": ("loss.type=huber", "loss.huber_schedule=exponential"),
    "loss.soft_min_snr": ("loss.min_snr_gamma=5", "loss.soft_min_snr=true"),
    "noise.multires_discount": ("noise.multires_iterations=4", "noise.multires_discount=0.8"),
    "noise.mode_scale": ("noise.timestep_sampling=mode", "noise.mode_scale=0.5"),
}
"""Setting -> what it needs, and itself."""
COMMON = (
    *("train.steps=6", "train.checkpoint_every=3", "noise.ip_gamma=0.1", "loss.preservation_weight=0.5"),
    *("loss.preservation_class=drawing", "caption.trigger_word=picture"),
)
WHOLE: dict[str, tuple[str, ...]] = {
    "sd15": (
        *COMMON,
        *("noise.offset=0.1", "noise.adaptive_scale=0.05", "noise.multires_iterations=4"),
        *("noise.zero_terminal_snr=true", "noise.prediction=v_prediction", "noise.timestep_sampling=logit_normal"),
        *("noise.min_timestep=100", "loss.type=huber", "loss.min_snr_gamma=5", "loss.soft_min_snr=true"),
    ),
    "flux1": (
        *COMMON,
        *("noise.timestep_sampling=mode", "noise.shift=resolution", "noise.max_timestep=900", "noise.guidance=3.5"),
        *("loss.type=smooth_l1", "loss.huber_schedule=snr", "train.gradient_checkpointing=true"),
    ),
}


@pytest.fixture(scope="module")
def finished(finished_project: Callable[[str], Path]) -> Any:
    """Return a maker of copies of finished projects."""
    return lambda family, folder: TinyProject(finished_project(family)).copy(folder)


def lora_of(project: TinyProject, *settings: str) -> str:
    return project.run(*SHORT, *settings, until="lora_checkpoint")["lora_checkpoint"].data_version


@pytest.mark.setting(*sorted({one.partition("=")[0] for several in EACH.values() for one in several}))
@pytest.mark.parametrize("family", sorted(EACH))
def test_each_setting_trains_another_lora_and_encodes_nothing_again(finished: Any, family: str, tmp_path: Path) -> None:
    project = finished(family, tmp_path / "project")
    seen = {lora_of(project): "defaults"}
    for setting in EACH[family]:
        results = project.run(*SHORT, setting, until="lora_checkpoint")
        assert computed(results) == {"lora_checkpoint": 2}, setting
        version = results["lora_checkpoint"].data_version
        assert version not in seen, f"{setting} trains what {seen[version]} does"
        seen[version] = setting


@pytest.mark.setting(*sorted(TOGETHER))
def test_settings_that_need_another_change_what_it_does(finished: Any, tmp_path: Path) -> None:
    project = finished("sd15", tmp_path / "project")
    for needed, setting in TOGETHER.values():
        assert lora_of(project, needed) != lora_of(project, needed, setting), setting


@pytest.mark.setting("loss.preservation_weight")
@pytest.mark.parametrize("family", sorted(WHOLE))
def test_a_fistful_of_settings_resumes_bit_for_bit(finished: Any, family: str, tmp_path: Path) -> None:
    project = finished(family, tmp_path / "project")
    whole = project.copy(tmp_path / "whole")
    whole.run(*WHOLE[family], until="lora_checkpoint")

    def stop(event: ProgressEvent) -> None:
        if event.stage == "lora_checkpoint" and event.done == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    session = run.open_session(project.config, WHOLE[family], stop)
    with pytest.raises(Interrupted):
        run.run_until(session, "lora_checkpoint")
    session.close()
    result = project.run(*WHOLE[family], until="lora_checkpoint")["lora_checkpoint"]
    assert (result.items_computed, result.items_reused) == (2, 4)
    files = [hashlib.sha256(one.lora.read_bytes()).hexdigest() for one in (project, whole)]
    assert files[0] == files[1]
    without = [setting for setting in WHOLE[family] if "loss.preservation" not in setting]
    other = whole.run(*without, until="lora_checkpoint")["lora_checkpoint"]
    assert other.data_version != result.data_version


def test_the_held_out_loss_is_plain_whatever_is_trained_with(finished: Any, tmp_path: Path) -> None:
    project = finished("sd15", tmp_path / "project")

    def of_base(*settings: str) -> float:
        result = project.run("train.steps=1", *settings, until="lora_checkpoint")["lora_checkpoint"]
        return result.published.metadata["held_out_losses"]["0"]

    plain = of_base()
    shaped = ("noise.offset=0.3", "noise.adaptive_scale=0.3", "noise.multires_iterations=6", "noise.ip_gamma=0.3")
    weighted = ("loss.type=l1", "loss.min_snr_gamma=1", "loss.debiased=true")
    assert of_base(*shaped, *weighted) == plain
    assert of_base("noise.prediction=v_prediction") != plain


@pytest.mark.setting("noise.prediction", "noise.zero_terminal_snr")
def test_pictures_are_sampled_with_the_noise_that_was_trained(finished: Any, tmp_path: Path) -> None:
    project = finished("sd15", tmp_path / "project")

    def of_base(*settings: str) -> bytes:
        published = project.run(*SHORT, *settings, until="samples")["samples"].published
        return published.file("pictures/base/00.png").read_bytes()

    plain = of_base()
    assert of_base("noise.offset=0.1") == plain
    assert of_base("noise.prediction=v_prediction") != plain
    zero = of_base("noise.prediction=v_prediction", "noise.zero_terminal_snr=true")
    assert zero not in (plain, of_base("noise.prediction=v_prediction"))


@pytest.mark.setting("loss.prior_weight")
def test_the_prior_weight_counts_for_regularisation_pictures_alone(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = finished("sd15", tmp_path / "project")
    assert lora_of(project, "loss.prior_weight=0.1") == lora_of(project)
    real = training_run.trained_samples

    def half_of_them(context: Any) -> list[Sample]:
        return [replace(one, regularisation=number % 2 == 0) for number, one in enumerate(real(context))]

    monkeypatch.setattr(training_run, "trained_samples", half_of_them)
    versions = {lora_of(project, f"loss.prior_weight={weight}", "train.seed=8") for weight in (1.0, 0.5, 0.1)}
    assert len(versions) == 3
