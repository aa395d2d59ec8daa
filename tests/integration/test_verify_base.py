"""`verify --base`: a LoRA in the pipeline of any base, on machines without torchvision too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract.models import MODELS
from tests.tiny.flux2 import build_flux2
from tests.tiny.sd3 import build_sd3
from tests.unit.cli.support import call, told
from tests.unit.export.support import config_of, random_lora, targets
from trainer_core.export.hollow_models import hollow_denoiser, modules_of
from trainer_core.export.write import exported_tensors, write_lora
from trainer_core.families import get_family

BASES = (
    *("flux2", "qwen_image_edit_single"),
    *(pytest.param(name, marks=pytest.mark.campaign) for name in ("kandinsky5", "qwen_image_edit")),
)
"""Bases whose processor needs torchvision in diffusers' own loader."""


def write(path: Path, family: str, base: Path, size: float = 1.0) -> Path:
    """Write a LoRA of random numbers for a base, as training does."""
    spec = get_family(family).spec
    modules = modules_of(spec, {spec.denoiser: hollow_denoiser(spec, config_of(base, family))})
    lora = random_lora(modules, targets(modules, "attention"), alpha=100.0)
    tensors = exported_tensors(lora, "diffusers", "fp32")
    write_lora(path, {name: size * tensor for name, tensor in tensors.items()}, {})
    return path


@pytest.mark.usefixtures("small_control_pictures")
@pytest.mark.parametrize("name", BASES)
def test_a_lora_changes_a_picture_of_a_base_whose_processor_needs_torchvision(
    name: str, tmp_path: Path, tiny_bases: dict[str, Path]
) -> None:
    family, base = MODELS[name].family, tiny_bases[name]
    result = call("verify", write(tmp_path / "lora.safetensors", family, base), "--base", base, "--json")
    assert result.exit_code == 0, result.stderr
    assert told(result)["changes_picture"] is True


def test_a_lora_of_zeros_changes_nothing(tmp_path: Path) -> None:
    base = build_flux2(tmp_path / "base")
    lora = write(tmp_path / "lora.safetensors", "flux2", base, size=0.0)
    result = call("verify", lora, "--base", base, "--json")
    assert result.exit_code == 1
    assert told(result)["changes_picture"] is False


def test_a_pipeline_of_no_family_is_loaded_by_diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = build_sd3(tmp_path / "base")
    lora = write(tmp_path / "lora.safetensors", "sd3", base)
    asked: list[str] = []

    def unknown(name: str) -> Any:
        asked.append(name)

    monkeypatch.setattr("trainer_core.cli.picture_change.family_of_pipeline", unknown)
    result = call("verify", lora, "--base", base, "--json")
    assert result.exit_code == 0, result.stderr
    assert (told(result)["changes_picture"], asked) == (True, ["StableDiffusion3Pipeline"])


@pytest.mark.parametrize("index", ["{", "[]", "{}"])
def test_a_broken_index_is_named(tmp_path: Path, index: str) -> None:
    base = build_flux2(tmp_path / "base")
    lora = write(tmp_path / "lora.safetensors", "flux2", base)
    (base / "model_index.json").write_text(index)
    result = call("verify", lora, "--base", base)
    assert result.exit_code == 2
    assert f"--base {base}: model_index.json names no pipeline" in result.stderr


def test_a_base_that_lacks_a_part_is_named(tmp_path: Path) -> None:
    base = build_flux2(tmp_path / "base")
    lora = write(tmp_path / "lora.safetensors", "flux2", base)
    (base / "vae" / "config.json").unlink()
    result = call("verify", lora, "--base", base)
    assert result.exit_code == 2
    assert "vae" in result.stderr and "--base" in result.stderr
