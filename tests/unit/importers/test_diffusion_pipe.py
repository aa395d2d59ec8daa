from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.importers.support import import_example, import_text, project_of, status
from trainer_core.importers.core.tool_config import ImportFailed

MAIN = """
dataset = 'data.toml'
epochs = 5
save_every_n_epochs = 1
[model]
type = 'flux'
diffusers_path = 'owner/base'
dtype = 'bfloat16'
{model}
[adapter]
type = 'lora'
rank = 24
[optimizer]
type = 'adamw_optimi'
lr = 2e-5
"""
DATA = "resolutions = [512]\n[[directory]]\npath = '/a'\n"


def test_alpha_is_the_rank_and_captions_are_whole_files(tmp_path: Path) -> None:
    project = project_of(tmp_path, import_text(tmp_path, MAIN.format(model=""), data_toml=DATA))
    assert (project.adapter.rank, project.adapter.alpha) == (24, 24)
    assert (project.caption.multiline, project.caption.missing) == ("whole", "exclude")
    assert project.bucket.table == "square"
    assert project.export.dtype == "bf16"
    assert (project.optimizer.weight_decay, project.optimizer.eps, project.optimizer.betas) == (0, 1e-6, (0.9, 0.99))


@pytest.mark.parametrize(
    ("model", "sampling", "shift", "std"),
    [
        ("", "sigmoid", 0, 1),
        ("flux_shift = true", "logit_normal", "resolution", 1),
        ("shift = 3", "logit_normal", 3, 1),
        ("sigmoid_scale = 1.5", "logit_normal", 1, 1.5),
        ("timestep_sample_method = 'uniform'", "uniform", 1, 1),
    ],
)
def test_timestep_sampling_means_the_same(
    tmp_path: Path, model: str, sampling: str, shift: float | str, std: float
) -> None:
    noise = project_of(tmp_path, import_text(tmp_path, MAIN.format(model=model), data_toml=DATA)).noise
    assert (noise.timestep_sampling, noise.shift, noise.logit_std) == (sampling, shift, std)


def test_evaluation_folders_are_held_out_and_ratios_become_sides(tmp_path: Path) -> None:
    report = import_example(tmp_path, "diffusion-pipe/flux.toml")
    project = project_of(tmp_path, report)
    assert [one.held_out for one in project.datasets] == [0, 0, 1]
    assert [one.resolutions for one in project.datasets] == [(512, 1024), (960,), ()]
    # 1024 * sqrt(2) = 1448 and 512 / sqrt(2) = 362, to multiples of 64 outwards.
    assert (project.bucket.max_side, project.bucket.min_side) == (1472, 320)
    assert (project.tags.shuffle, project.caption.variants) == (True, 8)
    assert status(report, "micro_batch_size_per_gpu") == "changed"


def test_sdxl_trains_its_text_encoders_with_their_rates(tmp_path: Path) -> None:
    project = project_of(tmp_path, import_example(tmp_path, "diffusion-pipe/sdxl.toml"))
    assert project.adapter.text_encoders == ("text_encoder", "text_encoder_2")
    assert project.optimizer.text_encoder_lr == (2e-5, 1e-5)
    assert (project.optimizer.lr, project.noise.prediction) == (4e-5, "v_prediction")
    assert project.train.epochs is None


def test_a_huge_rank_of_lokr_means_whole_matrices(tmp_path: Path) -> None:
    project = project_of(tmp_path, import_example(tmp_path, "diffusion-pipe/qwen_lokr.toml"))
    assert project.adapter_options.full_matrix
    assert project.adapter_options.factor == 4
    assert (project.noise.logit_std, project.noise.shift) == (1.4, 3)


def test_a_dataset_file_that_is_not_there_stops_the_import(tmp_path: Path) -> None:
    with pytest.raises(ImportFailed, match="data.toml"):
        import_text(tmp_path, MAIN.format(model=""))
