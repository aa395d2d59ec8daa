from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.importers.support import import_example, import_json, project_of, status
from trainer_core.importers.core.report import ImportReport
from trainer_core.importers.core.tool_config import ImportFailed

BASE = {
    "model_type": "lora",
    "model_family": "flux",
    "data_backend_config": "data.json",
    "pretrained_model_name_or_path": "owner/base",
}


def imported(tmp_path: Path, backend: dict[str, Any] | None = None, **more: Any) -> ImportReport:
    one = {"id": "a", "type": "local", "instance_data_dir": "/a", "caption_strategy": "textfile", **(backend or {})}
    return import_json(tmp_path, {**BASE, **more}, data_json=json.dumps([one]))


def test_defaults_of_simpletuner_that_are_not_ours_are_written(tmp_path: Path) -> None:
    project = project_of(tmp_path, imported(tmp_path))
    assert (project.adapter.rank, project.adapter.alpha, project.adapter.dropout) == (16, 16, 0.1)
    assert (project.optimizer.lr, project.optimizer.max_grad_norm, project.train.batch_size) == (4e-7, 2, 4)
    assert project.train.epochs == 1
    assert project.train.precision == "bf16"
    assert (project.noise.timestep_sampling, project.noise.shift) == ("logit_normal", 3)
    assert project.caption.dropout == 0.1
    assert (project.bucket.resolution, project.bucket.max_side) == (1024, 2048)
    assert project.datasets[0].held_out == 0


def test_alpha_is_the_rank_unless_given(tmp_path: Path) -> None:
    assert project_of(tmp_path, imported(tmp_path, lora_rank=64)).adapter.alpha == 64


@pytest.mark.parametrize(("theirs", "ours"), [(0, 1), (1, 2), (9, 10)])
def test_repeats_count_from_0_there(tmp_path: Path, theirs: int, ours: int) -> None:
    assert project_of(tmp_path, imported(tmp_path, {"repeats": theirs})).datasets[0].repeats == ours


@pytest.mark.parametrize(
    ("kind", "value", "side"),
    [("area", 1.0, 1024), ("area", 0.5, 704), ("area", 0.25, 512), ("area", 1.05, 1024), ("pixel_area", 768, 768)],
)
def test_resolutions_in_megapixels_become_sides(tmp_path: Path, kind: str, value: float, side: int) -> None:
    backend = {"resolution": value, "resolution_type": kind}
    assert project_of(tmp_path, imported(tmp_path, backend)).bucket.resolution == side


def test_a_shorter_edge_is_told_to_be_an_area_here_unless_squares_are_cut(tmp_path: Path) -> None:
    edge = {"resolution": 768, "resolution_type": "pixel"}
    assert status(imported(tmp_path, edge), "a.resolution") == "changed"
    square = imported(tmp_path, {**edge, "crop": True, "crop_aspect": "square"})
    assert status(square, "a.resolution") == "mapped"
    assert project_of(tmp_path, square).bucket.table == "square"


@pytest.mark.parametrize(("whole", "ours"), [(False, "random"), (True, "whole")])
def test_each_line_is_a_caption_unless_switched_off(tmp_path: Path, whole: bool, ours: str) -> None:
    backend = {"disable_multiline_split": whole}
    assert project_of(tmp_path, imported(tmp_path, backend)).caption.multiline == ours


def test_steps_go_before_epochs_unless_0(tmp_path: Path) -> None:
    run = project_of(tmp_path, imported(tmp_path, max_train_steps=700, num_train_epochs=3)).train
    assert (run.steps, run.epochs) == (700, None)
    run = project_of(tmp_path, imported(tmp_path, max_train_steps=0, num_train_epochs=3)).train
    assert run.epochs == 3


def test_conditions_join_the_pictures_that_name_them(tmp_path: Path) -> None:
    report = import_example(tmp_path, "simpletuner/qwen_edit_lokr.json")
    project = project_of(tmp_path, report)
    (dataset,) = project.datasets
    assert [str(path) for path in dataset.control_path] == ["/data/edits/before"]
    assert str(dataset.mask_path) == "/data/edits/masks"
    assert project.adapter.type == "lokr"
    assert project.adapter_options.full_matrix
    assert status(report, "lora_wank") == "unknown"


def test_variables_of_an_env_file_and_extra_arguments_are_read(tmp_path: Path) -> None:
    project = project_of(tmp_path, import_example(tmp_path, "simpletuner/sdxl.env"))
    assert (project.adapter.type, project.adapter.rank) == ("dora", 64)
    assert (project.train.steps, project.train.seed, project.optimizer.lr) == (4000, 7, 8e-5)
    assert (project.noise.offset, project.noise.prediction) == (0.05, "v_prediction")
    assert (project.loss.min_snr_gamma, project.loss.soft_min_snr) == (5, True)
    assert [one.held_out for one in project.datasets] == [0, 1]


def test_squares_and_buckets_at_once_are_told(tmp_path: Path) -> None:
    report = import_example(tmp_path, "simpletuner/flux_config.json")
    assert status(report, "sundials-512.crop") == "unsupported"
    assert project_of(tmp_path, report).bucket.table == "grid"


def test_a_dataloader_alone_is_no_project(tmp_path: Path) -> None:
    with pytest.raises(ImportFailed, match="--dataset"):
        import_json(tmp_path, [{"id": "a", "instance_data_dir": "/a", "caption_strategy": "textfile"}])


@pytest.mark.parametrize(
    ("settings", "dataset_type", "reason"),
    [
        ({"model_family": "ace_step"}, "audio", "only models of pictures"),
        ({"model_family": "flux", "controlnet": True}, "image", "ControlNet"),
        ({"model_family": "flux", "control": True}, "image", "control LoRA"),
        ({"model_family": "flux"}, "audio", "we train on pictures only"),
        ({"model_family": "flux"}, "video", "we train on pictures only"),
    ],
)
def test_what_trains_no_lora_on_pictures_is_refused(
    tmp_path: Path, settings: dict[str, Any], dataset_type: str, reason: str
) -> None:
    backend = json.dumps([{"id": "a", "dataset_type": dataset_type, "instance_data_dir": "files"}])
    data = {"model_type": "lora", "lora_rank": 8, "data_backend_config": "backend.json", **settings}
    with pytest.raises(ImportFailed, match=reason):
        import_json(tmp_path, data, backend_json=backend)
    assert not (tmp_path / "work" / "configs").exists()
