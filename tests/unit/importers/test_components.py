"""A VAE and text encoders in files of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.importers.support import import_json, import_text, note, project_of, status
from trainer_core.importers.core.report import ImportReport

FLUX = """
pretrained_model_name_or_path = "models/flux1-dev.safetensors"
ae = "models/ae.safetensors"
clip_l = "models/clip_l.safetensors"
t5xxl = "models/t5xxl_fp16.safetensors"
train_data_dir = "pictures"
network_module = "networks.lora_flux"
network_dim = 8
max_train_steps = 10
"""


def names(paths: Any) -> list[str]:
    return [Path(path).name for path in paths]


def kohya(tmp_path: Path, **more: Any) -> ImportReport:
    data = {
        "pretrained_model_name_or_path": "models/base.safetensors",
        "train_data_dir": "pictures",
        "network_module": "networks.lora",
        "network_dim": 8,
        "max_train_steps": 10,
        **more,
    }
    return import_json(tmp_path, data)


def test_the_usual_files_of_flux1_become_settings(tmp_path: Path) -> None:
    report = import_text(tmp_path, FLUX)
    model = project_of(tmp_path, report).model
    assert model.vae_path
    assert model.vae_path.name == "ae.safetensors"
    assert names(model.text_encoder_paths) == ["clip_l.safetensors", "t5xxl_fp16.safetensors"]
    assert {status(report, key) for key in ("ae", "clip_l", "t5xxl")} == {"mapped"}


def test_a_single_file_without_configs_is_warned_of(tmp_path: Path) -> None:
    report = import_text(tmp_path, FLUX)
    assert "model.config_path" in [finding.field for finding in report.findings if finding.level == "warning"]


def test_another_vae_of_sd15_becomes_a_setting(tmp_path: Path) -> None:
    project = project_of(tmp_path, kohya(tmp_path, vae="models/vae-ft-mse-840000-ema-pruned.safetensors"))
    assert project.model.vae_path
    assert project.model.vae_path.name == "vae-ft-mse-840000-ema-pruned.safetensors"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("models/vae.pt", "convert it to .safetensors"),
        ("models/vae.sft", "Rename it"),
        ("stabilityai/sd-vae-ft-mse", "download it"),
    ],
)
def test_a_vae_that_cannot_be_read_is_refused_with_what_to_do(tmp_path: Path, value: str, reason: str) -> None:
    report = kohya(tmp_path, vae=value)
    assert status(report, "vae") == "unsupported"
    assert reason in note(report, "vae")
    assert project_of(tmp_path, report).model.vae_path is None


def test_an_encoder_that_cannot_be_read_takes_no_other_with_it(tmp_path: Path) -> None:
    report = import_text(tmp_path, FLUX.replace("t5xxl_fp16.safetensors", "t5xxl.bin"))
    assert (status(report, "clip_l"), status(report, "t5xxl")) == ("mapped", "unsupported")
    assert names(project_of(tmp_path, report).model.text_encoder_paths) == ["clip_l.safetensors"]


def test_a_file_of_gemma_is_refused_as_only_its_folder_is_read(tmp_path: Path) -> None:
    report = kohya(tmp_path, network_module="networks.lora_lumina", gemma2="models/gemma2.safetensors", ae="ae/")
    assert "config.json" in note(report, "gemma2")
    assert status(report, "ae") == "mapped"


def test_parts_of_simpletuner_and_ai_toolkit_become_settings(tmp_path: Path) -> None:
    data = {
        "model_type": "lora",
        "model_family": "flux",
        "lora_rank": 8,
        "data_backend_config": "backend.json",
        "pretrained_vae_model_name_or_path": "./parts/vae",
        "pretrained_t5_model_name_or_path": "./parts/t5",
    }
    backend = '[{"id": "a", "instance_data_dir": "pictures"}]'
    model = project_of(tmp_path, import_json(tmp_path, data, backend_json=backend)).model
    assert (model.vae_path and model.vae_path.name, names(model.text_encoder_paths)) == ("vae", ["t5"])
    process = {
        "type": "sd_trainer",
        "network": {"type": "lora"},
        "datasets": [{"folder_path": "pictures"}],
        "model": {
            "name_or_path": "owner/base",
            "arch": "flux",
            "vae_path": "./parts/vae",
            "te_name_or_path": "./parts/t5",
        },
    }
    report = import_json(tmp_path, {"job": "extension", "config": {"name": "one", "process": [process]}})
    model = project_of(tmp_path, report).model
    assert (model.vae_path and model.vae_path.name, names(model.text_encoder_paths)) == ("vae", ["t5"])


def test_lora_fa_keeps_its_kind(tmp_path: Path) -> None:
    report = kohya(tmp_path, network_module="networks.lora_fa")
    adapter = project_of(tmp_path, report).adapter
    assert (adapter.type, adapter.targets) == ("lora-fa", "all-linear+conv1x1")
    assert "2.4" in note(report, "network_module")


def test_lora_fa_takes_convolutions_with_it(tmp_path: Path) -> None:
    adapter = project_of(
        tmp_path, kohya(tmp_path, network_module="networks.lora_fa", network_args=["conv_dim=4"])
    ).adapter
    assert (adapter.type, adapter.conv_rank, adapter.targets) == ("lora-fa", 4, "unet-blocks")
