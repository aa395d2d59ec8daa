"""The published file is what plain diffusers loads, with the strength that was trained."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.projects import TinyProject, make_project
from trainer_core.export.lora_file import check_lora


def _picture(pipeline: object) -> bytes:
    generator = torch.Generator().manual_seed(1)
    call = {"num_inference_steps": 2, "guidance_scale": 2.0, "width": 64, "height": 64, "generator": generator}
    return pipeline("a small picture", **call).images[0].tobytes()  # type: ignore[operator]


@pytest.mark.parametrize("family", ["sd15", "sdxl", "flux1"])
def test_plain_diffusers_loads_it_and_the_picture_changes(
    tiny_bases: dict[str, Path], tmp_path: Path, family: str
) -> None:
    from diffusers import DiffusionPipeline

    project = make_project(tmp_path / "project", tiny_bases[family], family, pictures=4)
    results = project.run("datasets.0.held_out=0.25")
    pipeline = DiffusionPipeline.from_pretrained(project.base)
    pipeline.set_progress_bar_config(disable=True)
    before = _picture(pipeline)
    pipeline.load_lora_weights(str(project.lora.parent), weight_name=project.lora.name)
    assert pipeline.get_active_adapters()
    assert _picture(pipeline) != before
    assert results["samples"].published.metadata["lora_changes_picture"] is True


def test_loaded_deltas_are_alpha_over_rank_times_b_a(finished_sd15: Path) -> None:
    from diffusers import UNet2DConditionModel

    project = TinyProject(finished_sd15)
    unet = UNet2DConditionModel.from_pretrained(project.base / "unet")
    unet.load_lora_adapter(str(project.lora.parent), weight_name=project.lora.name, prefix="unet")
    newest = sorted(project.store.glob("runs/*/checkpoints/step-*/adapter.safetensors"))[-1]
    trained = load_file(newest)
    for name, module in unet.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        loaded = module.scaling["default_0"] * module.lora_B["default_0"].weight @ module.lora_A["default_0"].weight
        wanted = 2 / 4 * trained[f"{name}.lora_B.weight"] @ trained[f"{name}.lora_A.weight"]
        assert torch.linalg.norm(loaded - wanted) <= 2e-3 * torch.linalg.norm(wanted)


def test_the_file_tells_where_it_came_from(finished_sd15: Path) -> None:
    project = TinyProject(finished_sd15)
    with safe_open(project.lora, "pt") as file:
        metadata = file.metadata()
    assert metadata["lora_assets.family"] == "sd15"
    assert len(metadata["lora_assets.base_fingerprint"]) == 64
    assert json.loads(metadata["lora_assets.settings"])["adapter"]["rank"] == 4
    assert json.loads(metadata["lora_assets.versions"]).keys() >= {"torch", "diffusers", "peft"}
    told, found = check_lora(project.lora)
    assert told == found == metadata["lora_assets.weights_sha256"]


def test_sha256sum_accepts_the_checksums_of_the_outputs(finished_sd15: Path) -> None:
    project = TinyProject(finished_sd15)
    done = subprocess.run(
        ["sha256sum", "-c", "checksums.sha256"], cwd=project.lora.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "tiny.safetensors: OK" in done.stdout
