"""The way of weights to their device, tensor by tensor, run with the CPU as its end: what it builds and decides."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel

from trainer_core.errors import ModelError
from trainer_core.families import get_family
from trainer_core.families.model_source import ModelSource
from trainer_core.families.shared import loading
from trainer_core.families.storage import assembly, gds, reading
from trainer_core.families.storage.schemes import Storage
from trainer_core.hardware.meter import Meter

CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"


def unet_class() -> type:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel


def load(cls: Any, folder: Path, files: Sequence[Path], dtype: torch.dtype) -> tuple[Any, set[str]]:
    """Build a model as on a GPU: by fastsafetensors, whose end is the CPU."""
    model = assembly.empty_model(cls, folder)
    return model, assembly.fill(model, reading.read_in_chunks(files, CPU, gds=False), dtype, CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_is_the_one_that_diffusers_loads(tiny_bases: Mapping[str, Path], dtype: torch.dtype) -> None:
    folder = tiny_bases["sd15"] / "unet"
    ours, missing = load(unet_class(), folder, [folder / WEIGHTS], dtype)
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
    whole, missing = load(unet_class(), folder, shards, torch.float32)
    assert missing == set()
    assert all(torch.equal(whole.state_dict()[name], tensors[name]) for name in names)


def test_missing_weights_are_named(tiny_bases: Mapping[str, Path], tmp_path: Path) -> None:
    folder = tiny_bases["sd15"] / "unet"
    tensors = load_file(folder / WEIGHTS)
    lost = sorted(tensors)[0]
    del tensors[lost]
    save_file(tensors, tmp_path / WEIGHTS)
    assert load(unet_class(), folder, [tmp_path / WEIGHTS], torch.float32)[1] == {lost}


def test_what_a_class_keeps_in_float32_stays_so(
    tiny_bases: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_bases["sd15"] / "unet"
    monkeypatch.setattr(unet_class(), "_keep_in_fp32_modules", ["time_embedding"])
    model, _ = load(unet_class(), folder, [folder / WEIGHTS], torch.bfloat16)
    kinds = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {kind for name, kind in kinds.items() if "time_embedding" in name} == {torch.float32}
    assert {kind for name, kind in kinds.items() if "time_embedding" not in name} == {torch.bfloat16}


def test_a_source_for_a_gpu_sends_every_model_there_as_it_is_read(
    tiny_bases: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ModelSource.open(tiny_bases["sd15"], None, get_family("sd15").spec)
    read, maps, device_of = list[str](), list[Any](), loading._device  # pyright: ignore[reportPrivateUsage]
    in_chunks, real = reading.read_in_chunks, CLIPTextModel.from_pretrained

    def on_the_cpu(files: Sequence[Path], device: torch.device, **options: Any) -> Iterator[Any]:
        read.append(files[0].parent.name)
        return in_chunks(files, device, **options)

    def from_pretrained(folder: str, device_map: Any, **options: Any) -> Any:
        maps.append(device_map)
        return real(folder, device_map=device_map, **options)

    monkeypatch.setattr(reading, "_mapped", lambda files, names: on_the_cpu(files, CPU, gds=False, names=names))
    monkeypatch.setattr(CLIPTextModel, "from_pretrained", from_pretrained)
    monkeypatch.setattr(loading, "_device", lambda source: CPU)
    gpu = replace(source, device="cuda")
    ours = loading.load_denoiser(gpu, torch.float32)
    loading.load_vae(gpu, torch.float32)
    encoders = loading.load_text_encoders(gpu, torch.float32)
    monkeypatch.undo()
    theirs = loading.load_denoiser(source, torch.float32)
    assert (read, maps, device_of(source)) == (["unet", "vae"], [{"": CPU}], CPU)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert not any(
        parameter.requires_grad for parameter in (*ours.parameters(), *encoders["text_encoder"].parameters())
    )
    assert not ours.training


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_weights_of_a_variant_are_read_where_there_are_no_others(
    component: str, device: Any, tiny_bases: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Path(shutil.copytree(tiny_bases["sd15"], tmp_path / "base"))
    for file in base.glob(f"{component}/*.safetensors"):
        save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
        file.rename(file.with_suffix(".fp16.safetensors"))
    monkeypatch.setattr(loading, "_device", lambda source: CPU)
    source = replace(ModelSource.open(base, None, get_family("sd15").spec), device=device)
    model = loading.load_component(source, component, torch.float32)
    stored = load_file(next(base.glob(f"{component}/*.fp16.safetensors")))
    found = {name.removeprefix("text_model."): tensor for name, tensor in model.state_dict().items()}
    assert all(torch.equal(found[name.removeprefix("text_model.")], stored[name].float()) for name in stored)


def test_several_variants_are_no_choice_of_ours(tiny_bases: Mapping[str, Path], tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_bases["sd15"], tmp_path / "base"))
    weights = base / "unet" / WEIGHTS
    shutil.copy(weights, weights.with_suffix(".bf16.safetensors"))
    weights.rename(weights.with_suffix(".fp16.safetensors"))
    with pytest.raises(ModelError, match="leave the weights of one variant alone"):
        ModelSource.open(base, None, get_family("sd15").spec)


def test_a_tensor_of_another_shape_is_named(tiny_bases: Mapping[str, Path], tmp_path: Path) -> None:
    folder = tiny_bases["sd15"] / "unet"
    tensors = load_file(folder / WEIGHTS)
    tensors["conv_in.weight"] = tensors["conv_in.weight"][:1].clone()
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(ModelError, match=r"conv_in.weight is \[1, .*config.json makes it"):
        load(unet_class(), folder, [tmp_path / WEIGHTS], torch.float32)


def test_what_gpudirect_storage_fails_to_read_comes_through_the_cpu_and_is_told(
    tiny_bases: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file, in_chunks = tiny_bases["sd15"] / "unet" / WEIGHTS, reading.read_in_chunks

    def fails_on_the_way(files: Sequence[Path], device: torch.device, gds: bool, **options: Any) -> Iterator[Any]:
        for place, pair in enumerate(in_chunks(files, CPU, gds=False, **options)):
            if gds and place == 5:
                raise Exception("raw_gds_read_failed")
            yield pair

    monkeypatch.setattr(reading, "read_in_chunks", fails_on_the_way)
    monkeypatch.setattr(reading, "has_gds", lambda device: True)
    found = list(reading.read([file], torch.device("cuda")))
    assert sorted(name for name, _ in found) == sorted(load_file(file)), "each of them once"
    assert "raw_gds_read_failed" in caplog.text


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

    monkeypatch.setattr(reading, "GDS_DEVICE", tmp_path if driver else tmp_path / "absent")
    monkeypatch.setattr(cpp, "is_cufile_found", lambda: library)
    assert reading.has_gds(torch.device(device)) is wanted


def test_doctor_tries_gpudirect_storage_and_says_what_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gds.gds_finding(tmp_path).message.startswith("there is no GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(gds, "_BYTES", 1024)
    assert "nvidia-fs" in gds.gds_finding(tmp_path).message
    monkeypatch.setattr(reading, "gds_problem", lambda: None)
    answers: list[Any] = [
        lambda files, device, gds: reading.read(files, CPU),
        lambda files, device, gds: iter([("written", torch.zeros(1024, dtype=torch.uint8))]),
        lambda files, device, gds: (_ for _ in ()).throw(Exception("cuFileRead")),
    ]
    monkeypatch.setattr(gds.torch.cuda, "synchronize", lambda device: None)
    found = []
    for answer in answers:
        monkeypatch.setattr(reading, "read_in_chunks", answer)
        found.append(gds.gds_finding(tmp_path))
    assert [one.level for one in found] == ["info", "error", "warning"]
    assert "past the CPU" in found[0].message
    assert "cuFileRead" in found[2].message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stored", "wanted", "scheme"),
    [
        (torch.float32, torch.bfloat16, "dense"),
        (torch.bfloat16, torch.bfloat16, "dense"),
        (torch.float32, torch.bfloat16, "nf4"),
    ],
)
def test_loading_holds_one_tensor_beside_what_is_kept(
    stored: torch.dtype, wanted: torch.dtype, scheme: Any, tmp_path: Path
) -> None:
    model = big_flux().to(stored)
    model.save_pretrained(tmp_path / "transformer")
    largest = max(parameter.nbytes for parameter in model.parameters())
    del model
    spec = get_family("flux1").spec
    built = assembly.empty_model(FluxTransformer2DModel, tmp_path / "transformer")
    files = [tmp_path / "transformer" / WEIGHTS]
    views = dict(reading.read(files, CPU))
    with OnDevice() as meter:
        # copies stand for what comes over a bus
        arriving = ((name, tensor.clone()) for name, tensor in views.items())
        assembly.fill(built, arriving, wanted, CPU, spec.stored_layers, Storage(scheme))
    kept = sum(parameter.nbytes for parameter in built.parameters())
    assert meter.now == pytest.approx(kept, rel=0.05)
    assert meter.peak - meter.now < 4 * largest, "a tensor of the file, and what its conversion needs"
    assert meter.peak < kept + 0.5 * sum(file.stat().st_size for file in files), "never two copies"


class OnDevice(Meter):
    """Leaves out tensors of the meta device, which have no memory."""

    def track(self, tensor: Tensor) -> None:
        if not tensor.is_meta:
            super().track(tensor)


def big_flux() -> Any:
    """Return a FLUX.1 of 14 million weights, the largest of which is a fiftieth of them."""
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        num_layers=4,
        num_single_layers=8,
        attention_head_dim=32,
        num_attention_heads=6,
        joint_attention_dim=64,
        pooled_projection_dim=32,
        in_channels=16,
        axes_dims_rope=(8, 12, 12),
    )
