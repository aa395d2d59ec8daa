"""The way of weights to a GPU, run with the CPU as its end: what it builds, and what it decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer_core.families import get_family
from trainer_core.families.model_source import ModelSource
from trainer_core.families.shared import fast_loading, loading

CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"


def unet_class() -> type:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_is_the_one_that_diffusers_loads(tiny_bases: Mapping[str, Path], dtype: torch.dtype) -> None:
    folder = tiny_bases["sd15"] / "unet"
    ours, missing = fast_loading.load(unet_class(), folder, [folder / WEIGHTS], dtype, CPU)
    theirs = unet_class().from_pretrained(folder, torch_dtype=dtype)  # type: ignore[attr-defined]
    assert missing == set()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor)
        assert ours.state_dict()[name].dtype == tensor.dtype


def test_shards_make_one_model(tiny_bases: Mapping[str, Path], tmp_path: Path) -> None:
    folder = tiny_bases["sd15"] / "unet"
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    shards = [tmp_path / f"shard-{half}.safetensors" for half in range(2)]
    for half, shard in enumerate(shards):
        save_file({name: tensors[name] for name in names[half::2]}, shard)
    whole, missing = fast_loading.load(unet_class(), folder, shards, torch.float32, CPU)
    assert missing == set()
    assert all(torch.equal(whole.state_dict()[name], tensors[name]) for name in names)


def test_missing_weights_are_named(tiny_bases: Mapping[str, Path], tmp_path: Path) -> None:
    folder = tiny_bases["sd15"] / "unet"
    tensors = load_file(folder / WEIGHTS)
    lost = sorted(tensors)[0]
    del tensors[lost]
    save_file(tensors, tmp_path / WEIGHTS)
    assert fast_loading.load(unet_class(), folder, [tmp_path / WEIGHTS], torch.float32, CPU)[1] == {lost}


def test_what_a_class_keeps_in_float32_stays_so(
    tiny_bases: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_bases["sd15"] / "unet"
    monkeypatch.setattr(unet_class(), "_keep_in_fp32_modules", ["time_embedding"])
    model, _ = fast_loading.load(unet_class(), folder, [folder / WEIGHTS], torch.bfloat16, CPU)
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {kind for name, kind in kinds.items() if "time_embedding" in name} == {torch.float32}
    assert {kind for name, kind in kinds.items() if "time_embedding" not in name} == {torch.bfloat16}


def test_a_source_for_a_gpu_reads_diffusers_models_that_way_and_text_encoders_not(
    tiny_bases: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = get_family("sd15")
    source = ModelSource.open(tiny_bases["sd15"], None, family.spec)
    real, loaded = fast_loading.load, list[str]()

    def on_the_cpu(cls: Any, folder: Path, files: Any, dtype: torch.dtype, device: torch.device) -> Any:
        assert device == torch.device("cuda", 0)
        loaded.append(folder.name)
        return real(cls, folder, files, dtype, CPU)

    monkeypatch.setattr(fast_loading, "load", on_the_cpu)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    gpu = replace(source, device="cuda")
    ours, theirs = (loading.load_denoiser(one, torch.float32) for one in (gpu, source))
    loading.load_vae(gpu, torch.float32)
    loading.load_text_encoders(gpu, torch.float32)
    assert loaded == ["unet", "vae"]
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    assert not ours.training


@pytest.mark.parametrize(
    ("device", "driver", "library", "wanted"),
    [
        ("cpu", True, True, False),
        ("cuda:0", False, True, False),
        ("cuda:0", True, False, False),
        ("cuda:0", True, True, True),
    ],
)
def test_files_go_past_the_cpu_only_where_driver_and_library_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, driver: bool, library: bool, wanted: bool
) -> None:
    from fastsafetensors import cpp

    monkeypatch.setattr(fast_loading, "GDS_DEVICE", tmp_path if driver else tmp_path / "absent")
    monkeypatch.setattr(cpp, "is_cufile_found", lambda: library)
    assert fast_loading.has_gds(torch.device(device)) is wanted
