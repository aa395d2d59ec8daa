from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.importers.support import import_example, import_json, project_of, status
from trainer_core.sampling.prompt_file import read_prompt_file


def config(**process: Any) -> dict[str, Any]:
    """A minimal job of SDXL (UNet) or, with `arch`, of another model."""
    base = {"name_or_path": "owner/base", "arch": process.pop("arch", "sdxl")}
    body = {
        "type": "sd_trainer",
        "network": {"type": "lora"},
        "datasets": [{"folder_path": "/pictures"}],
        "model": base,
        **process,
    }
    return {"job": "extension", "config": {"name": "one", "process": [body]}}


def test_defaults_of_ai_toolkit_that_are_not_ours_are_written(tmp_path: Path) -> None:
    project = project_of(tmp_path, import_json(tmp_path, config(network={"type": "lora"})))
    assert (project.adapter.rank, project.adapter.alpha) == (4, 1)
    assert (project.optimizer.lr, project.optimizer.eps) == (1e-6, 1e-6)
    assert (project.train.steps, project.train.precision, project.train.gradient_checkpointing) == (1000, "fp32", True)
    assert (project.save.every, project.save.keep_last) == (1000, 5)
    assert (project.caption.multiline, project.caption.missing) == ("whole", "empty")
    assert project.caption.extensions == (".txt",)
    assert project.datasets[0].held_out == 0
    assert (project.bucket.resolution, project.bucket.max_side, project.bucket.upscale) == (512, 1024, False)


def test_alpha_is_the_rank_for_transformers_whatever_the_config_says(tmp_path: Path) -> None:
    network = {"type": "lora", "linear": 32, "linear_alpha": 8}
    report = import_json(tmp_path, config(arch="zimage", network=network))
    assert project_of(tmp_path, report).adapter.alpha == 32
    assert status(report, "network.linear_alpha") == "changed"
    unet = import_json(tmp_path, config(network=network))
    assert project_of(tmp_path, unet).adapter.alpha == 8
    assert status(unet, "network.linear_alpha") == "mapped"


def test_the_old_accumulation_counts_passes(tmp_path: Path) -> None:
    train = {"steps": 3000, "gradient_accumulation_steps": 3}
    run = project_of(tmp_path, import_json(tmp_path, config(train=train))).train
    assert (run.steps, run.gradient_accumulation_steps) == (1000, 3)
    run = project_of(tmp_path, import_json(tmp_path, config(train={"steps": 3000, "gradient_accumulation": 3}))).train
    assert (run.steps, run.gradient_accumulation_steps) == (3000, 3)


@pytest.mark.parametrize(
    ("kind", "sampling", "shift"),
    [
        ("sigmoid", "sigmoid", 0),
        ("linear", "uniform", 1),
        ("shift", "uniform", "resolution"),
        ("weighted", "uniform", 1),
    ],
)
def test_timestep_types_mean_the_same(tmp_path: Path, kind: str, sampling: str, shift: Any) -> None:
    noise = project_of(tmp_path, import_json(tmp_path, config(arch="flux", train={"timestep_type": kind}))).noise
    assert (noise.timestep_sampling, noise.shift) == (sampling, shift)


def test_adaptive_optimizers_start_from_1(tmp_path: Path) -> None:
    project = project_of(tmp_path, import_json(tmp_path, config(train={"optimizer": "prodigy", "lr": 1e-4})))
    assert (project.optimizer.lr, project.optimizer.weight_decay, project.optimizer.eps) == (1.0, 0, 1e-6)


def test_output_preservation_and_edit_pairs_are_kept(tmp_path: Path) -> None:
    loss = project_of(tmp_path / "a", import_example(tmp_path / "a", "ai-toolkit/zimage_dop.yaml")).loss
    assert (loss.preservation_weight, loss.preservation_class) == (1, "woman")
    edit = project_of(tmp_path / "b", import_example(tmp_path / "b", "ai-toolkit/qwen_edit_plus.yaml"))
    assert [path.name for path in edit.datasets[0].control_path] == ["before", "light"]
    assert edit.datasets[0].resolutions == (512, 768)
    assert edit.sample.prompt_file
    prompts = read_prompt_file(edit.sample.prompt_file)
    assert [[Path(one).name for one in prompt.controls] for prompt in prompts] == [["a.png", "light.png"], ["b.png"]]
    assert [prompt.seed for prompt in prompts] == [None, 7]
    assert edit.adapter_options.full_matrix


def test_several_resolutions_stay_with_their_folder(tmp_path: Path) -> None:
    report = import_example(tmp_path, "ai-toolkit/sdxl_locon.yaml")
    project = project_of(tmp_path, report)
    assert project.bucket.resolution == 1024
    assert [one.resolutions for one in project.datasets] == [(), (512,)]
    assert (project.bucket.min_side, project.bucket.max_side) == (256, 2048)
    assert project.caption.extensions == (".txt", ".caption")
    assert status(report, "train.stepz") == "unknown"


def test_denoising_steps_count_from_the_noisiest(tmp_path: Path) -> None:
    train = {"min_denoising_steps": 100, "max_denoising_steps": 600}
    noise = project_of(tmp_path, import_json(tmp_path, config(train=train))).noise
    assert (noise.min_timestep, noise.max_timestep) == (400, 900)
    usual = {"min_denoising_steps": 0, "max_denoising_steps": 999}
    noise = project_of(tmp_path, import_json(tmp_path, config(train=usual))).noise
    assert (noise.min_timestep, noise.max_timestep) == (0, 1000)
