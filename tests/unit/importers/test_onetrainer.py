from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.importers.support import import_example, import_json, project_of, status
from trainer_core.importers.core.tool_config import ImportFailed


def config(**more: Any) -> dict[str, Any]:
    concept = {"path": "/pictures", **more.pop("concept", {})}
    base = {"training_method": "LORA", "model_type": "FLUX_DEV_1", "base_model_name": "owner/base"}
    return {**base, "text_encoder": {"train": False}, "text_encoder_2": {"train": False}, "concepts": [concept], **more}


def test_defaults_of_onetrainer_that_are_not_ours_are_written(tmp_path: Path) -> None:
    project = project_of(tmp_path, import_json(tmp_path, config()))
    assert (project.adapter.rank, project.adapter.alpha) == (16, 1)
    assert (project.optimizer.lr, project.schedule.warmup_steps, project.train.epochs) == (3e-6, 200, 100)
    assert (project.train.precision, project.export.dtype) == ("fp16", "fp32")
    assert (project.noise.timestep_sampling, project.noise.shift) == ("uniform", 1)
    assert project.caption.multiline == "random"
    assert project.datasets[0].held_out == 0
    assert project.bucket.resolution == 512


def test_text_encoders_are_trained_unless_switched_off(tmp_path: Path) -> None:
    base = config(model_type="STABLE_DIFFUSION_XL_10_BASE")
    del base["text_encoder"], base["text_encoder_2"]
    assert project_of(tmp_path, import_json(tmp_path, base)).adapter.text_encoders == (
        "text_encoder",
        "text_encoder_2",
    )
    assert project_of(tmp_path, import_json(tmp_path, config())).adapter.text_encoders == ()


def test_each_text_encoder_keeps_its_rate(tmp_path: Path) -> None:
    data = config(model_type="STABLE_DIFFUSION_XL_10_BASE", learning_rate=1e-4)
    data |= {"text_encoder": {"learning_rate": 2e-5}, "text_encoder_2": {"learning_rate": 1e-5}}
    optimizer = project_of(tmp_path, import_json(tmp_path, data)).optimizer
    assert (optimizer.lr, optimizer.text_encoder_lr) == (1e-4, (2e-5, 1e-5))


@pytest.mark.parametrize(
    ("kind", "weight", "bias", "ours"),
    [
        ("UNIFORM", 0.0, 0.0, ("uniform", 0.0, 1.0, 1.29)),
        ("LOGIT_NORMAL", 0.5, -0.2, ("logit_normal", -0.2, 1.5, 1.29)),
        ("HEAVY_TAIL", 1.1, 0.0, ("mode", 0.0, 1.0, 1.1)),
        ("COS_MAP", 0.0, 0.0, ("cosmap", 0.0, 1.0, 1.29)),
    ],
)
def test_timestep_distributions_mean_the_same(tmp_path: Path, kind: str, weight: float, bias: float, ours: Any) -> None:
    data = config(timestep_distribution=kind, noising_weight=weight, noising_bias=bias)
    noise = project_of(tmp_path, import_json(tmp_path, data)).noise
    assert (noise.timestep_sampling, noise.logit_mean, noise.logit_std, noise.mode_scale) == ours


@pytest.mark.parametrize(("steps", "ours"), [(0.1, (0, 0.1)), (150.0, (150, 0.0))])
def test_a_warmup_up_to_1_is_a_share(tmp_path: Path, steps: float, ours: tuple[int, float]) -> None:
    schedule = project_of(tmp_path, import_json(tmp_path, config(learning_rate_warmup_steps=steps))).schedule
    assert (schedule.warmup_steps, schedule.warmup_ratio) == ours


def test_the_average_of_every_fifth_step_keeps_its_half_life(tmp_path: Path) -> None:
    report = import_json(tmp_path, config(ema="GPU", ema_decay=0.99, ema_update_step_interval=5))
    assert project_of(tmp_path, report).train.ema_decay ** 5 == pytest.approx(0.99, abs=1e-5)
    assert status(report, "ema") == "changed"


def test_repeats_are_kept_and_fractions_told(tmp_path: Path) -> None:
    report = import_json(tmp_path, config(concept={"balancing": 2.4}))
    assert project_of(tmp_path, report).datasets[0].repeats == 2
    assert status(report, "concepts.0.balancing") == "changed"


def test_concepts_keep_their_kinds_and_disabled_ones_stay_out(tmp_path: Path) -> None:
    report = import_example(tmp_path, "onetrainer/sdxl_lora.json")
    project = project_of(tmp_path, report)
    assert [one.held_out for one in project.datasets] == [0, 1, 0]
    assert [one.regularisation for one in project.datasets] == [False, False, True]
    assert (project.loss.mask_floor, project.loss.normalise_masks) == (0.2, True)
    assert (project.augment.crop, project.augment.variants) == ("random", 3)
    assert status(report, "sdxl_concepts.json.3") == "irrelevant"


def test_loss_strengths_and_older_keys_are_read(tmp_path: Path) -> None:
    project = project_of(tmp_path, import_example(tmp_path, "onetrainer/sd15_lokr_old.json"))
    assert (project.loss.type, project.loss.huber_c, project.loss.huber_schedule) == ("smooth_l1", 0.2, "constant")
    assert project.loss.min_snr_gamma == 5
    assert (project.adapter.type, project.adapter.rank, project.adapter_options.factor) == ("lokr", 24, 8)
    assert project.datasets[1].name == "2024-2"


def test_whole_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImportFailed, match="adapters only"):
        import_json(tmp_path, config(training_method="FINE_TUNE"))
