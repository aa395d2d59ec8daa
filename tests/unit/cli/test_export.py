from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.unit.cli.support import call, told
from tests.unit.export.support import assert_same, modules_in, random_lora, targets
from trainer_core.export.readers.read import read_layers
from trainer_core.export.safetensors_file import read_metadata
from trainer_core.export.write import Lora, exported_tensors, write_lora

Write = Callable[..., tuple[Path, Lora]]


@pytest.fixture
def write(tmp_path: Path, tiny_bases: dict[str, Path]) -> Write:
    """Write a random LoRA of a family in some format; return the file and what it holds."""

    def run(family: str, name: str, text: bool = False, **metadata: str) -> tuple[Path, Lora]:
        own = modules_in(tiny_bases[family], family, text)
        texts = [one for one in own.shapes if one.startswith("text_encoder") and one.endswith("self_attn.k_proj")]
        lora = random_lora(own, [*targets(own), *texts])
        path = tmp_path / "cats.safetensors"
        write_lora(path, exported_tensors(lora, name, "fp16"), metadata)
        return path, lora

    return run


@pytest.mark.parametrize("family", ["sd15", "sdxl", "flux1"])
@pytest.mark.parametrize(("old", "new"), [("kohya", "diffusers"), ("diffusers", "kohya"), ("kohya", "comfyui")])
def test_a_conversion_keeps_every_update(
    write: Write, tiny_bases: dict[str, Path], tmp_path: Path, family: str, old: str, new: str
) -> None:
    path, lora = write(family, old, text=family != "flux1")
    target = tmp_path / "out" / "new.safetensors"
    result = call("export", path, "--format", new, "--base", tiny_bases[family], "-o", target, "--json")
    assert result.exit_code == 0, result.stderr
    answer = told(result)
    assert (answer["path"], answer["family"], answer["dtype"]) == (str(target), family, "fp16")
    assert answer["proof"]["ok"] is True and answer["proof"]["modules"] == len(lora.layers)
    assert_same(read_layers(load_file(target), lora.modules), lora.layers, 1e-3)
    assert [one.name for one in target.parent.iterdir()] == ["new.safetensors"]


def test_what_lora_assets_trained_needs_no_base_and_is_named_after_its_format(
    finished_sd15: Path, tmp_path: Path
) -> None:
    lora = finished_sd15 / ".lora-assets/outputs/tiny/tiny.safetensors"
    result = call("export", lora, "--format", "kohya", "--dtype", "fp32", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "sd15, kohya, fp32: 32 modules, 96 keys" in result.stdout
    made = tmp_path / "tiny.kohya.safetensors"
    before, after = read_metadata(lora), read_metadata(made)
    assert after["ss_tag_frequency"] == before["ss_tag_frequency"]
    assert after["lora_assets.base_fingerprint"] == before["lora_assets.base_fingerprint"]
    assert after["sshs_model_hash"] != before["sshs_model_hash"]
    assert {tensor.dtype for tensor in load_file(made).values()} == {torch.float32}


def test_the_family_is_told_by_the_base_the_metadata_or_the_keys(
    write: Write, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    def family_of(path: Path, *more: str | Path) -> str:
        result = call(
            "export", path, "--format", "comfyui", "-o", tmp_path / "x.safetensors", "--force", "--json", *more
        )
        assert result.exit_code == 0, result.stderr
        return told(result)["family"]

    path, _ = write("flux1", "diffusers")
    assert family_of(path, "--family", "flux1") == "flux1"
    assert family_of(path, "--base", tiny_bases["flux1"] / "transformer", "--family", "flux1") == "flux1"
    path, _ = write("sdxl", "diffusers", **{"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"})
    assert family_of(path) == "sdxl"
    path, _ = write("sd15", "kohya", ss_base_model_version="sd_v1")
    assert family_of(path, "--base", tiny_bases["sd15"] / "unet") == "sd15"
    path, _ = write("sdxl", "diffusers")
    assert family_of(path) == "sdxl", "only SDXL's proj_in is linear"


def test_what_cannot_be_told_is_asked_for(write: Write, tmp_path: Path) -> None:
    path, _ = write("sd15", "diffusers")
    result = call("export", path, "--format", "kohya", cwd=tmp_path)
    assert result.exit_code == 2
    assert "sd15, sdxl" in result.stderr and "--family" in result.stderr
    path, _ = write("sdxl", "kohya", **{"lora_assets.family": "sdxl"})
    result = call("export", path, "--format", "diffusers", cwd=tmp_path)
    assert result.exit_code == 2
    assert "--base DIR" in result.stderr
    assert not list(tmp_path.glob("cats.*.safetensors"))


def test_the_base_of_another_family_is_refused(write: Write, tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    path, _ = write("sdxl", "kohya")
    for base, code in ((tiny_bases["flux1"], 1), (tiny_bases["sd15"], 1), (tmp_path, 2)):
        result = call("export", path, "--format", "diffusers", "--base", base, cwd=tmp_path)
        assert result.exit_code == code, result.stderr
    wrong = ("--base", tiny_bases["flux1"], "--family", "sdxl")
    result = call("export", path, "--format", "diffusers", *wrong, cwd=tmp_path)
    assert result.exit_code == 2
    assert "FluxTransformer2DModel" in result.stderr


def test_nothing_is_overwritten_unless_it_is_forced_and_the_source_never(
    write: Write, tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    path, _ = write("sd15", "kohya")
    target = tmp_path / "there.safetensors"
    target.write_bytes(b"mine")
    arguments = ("export", path, "--format", "diffusers", "--base", tiny_bases["sd15"])
    assert call(*arguments, "-o", target).exit_code == 2
    assert target.read_bytes() == b"mine"
    before = path.read_bytes()
    assert call(*arguments, "-o", path, "--force").exit_code == 2
    assert path.read_bytes() == before
    assert call(*arguments, "-o", target, "--force").exit_code == 0
    assert target.read_bytes() != b"mine"


def test_no_metadata_means_none(write: Write, tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    path, _ = write("sd15", "kohya", ss_training_comment="hello")
    arguments = (
        "export",
        path,
        "--format",
        "diffusers",
        "--base",
        tiny_bases["sd15"],
        "-o",
        tmp_path / "n.safetensors",
    )
    assert call(*arguments, "--no-metadata").exit_code == 0
    assert read_metadata(tmp_path / "n.safetensors") == {"format": "pt"}
    assert call(*arguments, "--force").exit_code == 0
    after = read_metadata(tmp_path / "n.safetensors")
    assert after["ss_training_comment"] == "hello"
    assert (after["ss_network_dim"], after["ss_network_alpha"]) == ("4", "4")


@pytest.mark.parametrize(("suffix", "what"), [("boft_R", "OFT"), ("ia3_l", "(IA)^3"), ("lora_B.bias", "a bias")])
def test_other_adapters_are_refused_with_the_reason(
    tiny_bases: dict[str, Path], tmp_path: Path, suffix: str, what: str
) -> None:
    save_file({f"lora_unet_mid_block.{suffix}": torch.ones(1)}, tmp_path / "x.safetensors")
    result = call("export", tmp_path / "x.safetensors", "--format", "kohya", "--base", tiny_bases["sd15"], cwd=tmp_path)
    assert result.exit_code == 1
    assert what in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("gone.safetensors", "--format", "kohya"),
        ("x", "--format", "ckpt"),
        ("x", "--format", "kohya", "--dtype", "fp8"),
    ],
)
def test_wrong_usage_is_exit_code_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "x").touch()
    assert call("export", *arguments, cwd=tmp_path).exit_code == 2
