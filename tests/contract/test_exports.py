"""LoRA files of every model in every format: proven, read back by us and by diffusers, converted there and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.models import MODELS
from tests.unit.export.support import assert_same
from trainer_core.adapters import lora as adapter
from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig
from trainer_core.errors import ExportError
from trainer_core.export.convert import Request, convert
from trainer_core.export.formats import formats, written_formats
from trainer_core.export.hollow_models import hollow_denoiser, modules_of
from trainer_core.export.metadata.lora_metadata import names_of_base
from trainer_core.export.proof import BOUNDS, comfyui_unmapped, prove
from trainer_core.export.readers.read import read_file, read_layers
from trainer_core.export.write import Lora, exported_tensors, write_lora
from trainer_core.families import get_family
from trainer_core.families.spec import FamilySpec, PrecisionName

OTHERS = [name for name, one in formats().items() if not (one.for_diffusers or one.for_lycoris)]
"""Formats that diffusers may read."""
PRECISIONS: tuple[PrecisionName, ...] = ("fp32", "fp16")
# diffusers cuts the fused modules of FLUX.1 at the rows where those of the real width end, so it reads no tiny ones
_FLUX_WIDTH = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 128, "num_attention_heads": 24}
WIDTHS: Mapping[str, Mapping[str, Any]] = {
    name: _FLUX_WIDTH for name in ("FluxPipeline", "FluxKontextPipeline", "ChromaPipeline")
}
# Lumina2's converter too knows one width only: 24 heads of 96 numbers, a third of them for keys and values
_LUMINA_WIDTH = {"hidden_size": 2304, "num_attention_heads": 24, "num_kv_heads": 8}
# kohya's keys, and ComfyUI's where they are other than PEFT's
KOHYA_IN_COMFYUI = ("lumina2", "sd15", "sdxl")
ARCHITECTURES = {
    "chroma": ("chroma", "chroma"),
    "flux1": ("flux-1-dev", "flux1"),
    "flux1_kontext": ("flux-1-dev", "flux1"),
    "flux2": ("Flux.2-dev", "flux_2_dev"),
    "flux2_klein": ("Flux.2-klein", "flux_2_klein"),
    "kandinsky5": ("Kandinsky-5", "kandinsky5"),
    "lumina2": ("lumina-2", "lumina2"),
    "qwen_image": ("Qwen-Image", "qwen_image"),
    "qwen_image_edit": ("Qwen-Image-Edit-Plus", "qwen_image_edit"),
    "qwen_image_edit_single": ("Qwen-Image-Edit", "qwen_image_edit"),
    "sana": ("sana", "sana"),
    "sd15": ("stable-diffusion-v1", "sd_v1"),
    "sd3": ("stable-diffusion-3", "sd3"),
    "sdxl": ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
    "z_image": ("Z-Image", "z_image"),
}
KEYS = {
    "chroma": "lora_unet_double_blocks_0_txt_attn_qkv",
    "flux1": "lora_unet_single_blocks_0_linear1",
    "flux1_kontext": "lora_unet_double_blocks_0_img_mlp_0",
    "flux2": "lora_unet_double_blocks_0_img_attn_qkv",
    "flux2_klein": "lora_unet_single_blocks_0_linear2",
    "kandinsky5": "lora_unet_visual_transformer_blocks_0_self_attention_to_query",
    "lumina2": "lora_unet_noise_refiner_0_attention_qkv",
    "qwen_image": "lora_unet_transformer_blocks_0_img_mlp_net_0_proj",
    "qwen_image_edit": "lora_unet_transformer_blocks_0_attn_to_q",
    "qwen_image_edit_single": "lora_unet_transformer_blocks_0_attn_add_k_proj",
    "sana": "lora_unet_transformer_blocks_0_ff_conv_point",
    "sd15": "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q",
    "sd3": "lora_unet_joint_blocks_0_x_block_attn2_qkv",
    "sdxl": "lora_unet_mid_block_attentions_0_proj_in",
    "z_image": "lora_unet_context_refiner_0_attention_qkv",
}
"""A key of each model's kohya file, as ComfyUI or a trainer of kohya has it."""


@dataclass(frozen=True)
class Base:
    """The configs of a model, without weights."""

    folder: Path
    spec: FamilySpec
    config: Mapping[str, Any]

    @property
    def wide(self) -> Base:
        """The model with the width that diffusers takes for granted."""
        return replace(self, config={**self.config, **WIDTHS.get(self.spec.pipeline, {})})

    @property
    def is_narrow(self) -> bool:
        """Whether it lacks that width."""
        return self.config != self.wide.config

    def lora(self, preset: str, alpha: float = 3.0) -> Lora:
        """Attach a LoRA as training does, and fill it with random numbers."""
        denoiser = hollow_denoiser(self.spec, self.config)
        modules = modules_of(self.spec, {self.spec.denoiser: denoiser})
        # alpha / rank is no power of two: nothing is exact by chance
        settings = AdapterConfig(rank=4, alpha=alpha, targets=preset)
        for parameter in adapter.attach(denoiser, settings, AdapterOptionsConfig(), self.spec.targets, seed=1).values():
            with torch.no_grad():
                parameter.normal_(std=0.02)
        layers = adapter.layers(adapter.state(denoiser), settings)
        return Lora({f"{self.spec.denoiser}.{name}": layer for name, layer in layers.items()}, modules)


@pytest.fixture(scope="session")
def open_base(tiny_folder: Callable[[str], Path]) -> Callable[[str], Base]:
    opened = dict[str, Base]()

    def get(name: str) -> Base:
        if name not in opened:
            tiny = tiny_folder(name)
            main = get_family(MODELS[name].family).spec
            pipeline = json.loads((tiny / "model_index.json").read_text())["_class_name"]
            (spec,) = [one for one in (main, *main.variants) if one.pipeline == pipeline]
            config = json.loads((tiny / spec.denoiser / "config.json").read_text())
            opened[name] = Base(tiny, spec, config)
        return opened[name]

    return get


@pytest.fixture(params=sorted(MODELS))
def base(request: pytest.FixtureRequest, open_base: Callable[[str], Base]) -> Base:
    return open_base(request.param)


def presets(spec: FamilySpec) -> list[str]:
    """Names of a family's targets, each regex once."""
    return list({pattern: name for name, pattern in spec.targets.items()}.values())


def test_every_file_holds_what_was_trained_and_is_read_by_those_that_it_is_for(base: Base, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    for preset in presets(base.spec):
        lora = base.lora(preset)
        for name in written_formats(base.spec.lora, list(formats())):
            style = formats()[name].style(base.spec.lora)
            for dtype in PRECISIONS:
                write_lora(path, exported_tensors(lora, name, dtype), {})
                proof = prove(path, name, lora, dtype, base.config)
                assert proof.modules == len(lora.layers) > 0
                assert proof.max_relative_error <= BOUNDS[dtype]
                reads = style in base.spec.lora.diffusers_reads and (style == "peft" or not base.is_narrow)
                reader = "lycoris" if name == "lycoris" else "diffusers" if reads else "lora-assets"
                assert proof.reader == reader, (preset, name, dtype, proof.note)
                assert name != "comfyui" or proof.comfyui_coverage == 1.0
                assert_same(read_layers(read_file(path)[0], lora.modules), lora.layers, BOUNDS[dtype])


@pytest.mark.parametrize("name", OTHERS)
def test_diffusers_reads_a_formats_keys_where_a_family_says_so_and_nowhere_else(
    base: Base, tmp_path: Path, name: str
) -> None:
    style = formats()[name].style(base.spec.lora)
    if style is None:
        return
    claims = replace(base.spec, lora=replace(base.spec.lora, diffusers_reads=("peft", style)))
    lora, path = base.wide.lora("all-linear"), tmp_path / "lora.safetensors"
    asked = Lora(lora.layers, replace(lora.modules, spec=claims))
    write_lora(path, exported_tensors(asked, name, "fp16"), {})
    try:
        reads = prove(path, name, asked, "fp16", base.wide.config).reader == "diffusers"
    except (ExportError, RuntimeWarning):  # it reads something else
        reads = False
    assert reads == (style in base.spec.lora.diffusers_reads)


@pytest.mark.parametrize("name", OTHERS)
def test_from_diffusers_to_another_format_and_back_every_update_stays(base: Base, tmp_path: Path, name: str) -> None:
    if formats()[name].style(base.spec.lora) is None:
        return
    lora = base.lora("all-linear")
    first, second, third = (tmp_path / f"{number}.safetensors" for number in range(3))
    write_lora(first, exported_tensors(lora, "diffusers", "fp32"), {})
    convert(first, second, Request(name, base.folder))
    back = convert(second, third, Request("diffusers", base.folder))
    assert back.family == base.spec.name
    assert_same(read_layers(read_file(third)[0], lora.modules), lora.layers)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_kohyas_keys_have_the_names_of_the_original_code(name: str, open_base: Callable[[str], Base]) -> None:
    keys = exported_tensors(open_base(name).lora("all-linear"), "kohya", "fp32")
    assert f"{KEYS[name]}.lora_down.weight" in keys
    assert f"{KEYS[name]}.alpha" in keys


class Checkpoint(dict[str, Tensor]):
    """A file in which a converter finds whatever it looks for."""

    def __missing__(self, key: str) -> Tensor:
        return torch.zeros(sum((3072, 3072, 3072, 12288)), 1)

    def pop(self, key: str, *default: Any) -> Any:
        return super().pop(key) if key in self else self[key]


def test_fused_modules_are_cut_where_diffusers_cuts_single_files(base: Base) -> None:
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    wide = {"Lumina2Pipeline": _LUMINA_WIDTH}.get(base.spec.pipeline, base.wide.config)
    modules = modules_of(base.spec, {base.spec.denoiser: hollow_denoiser(base.spec, {**base.config, **wide})})
    if not base.spec.lora.native:
        assert modules.native == {}
        return
    assert {native.partition(".")[0] for native in modules.native} == {
        native.partition(".")[0] for native in base.spec.lora.native
    }
    tensors = {native: torch.randn(parts[-1].stop, 1) for native, parts in modules.native.items()}
    file = Checkpoint({f"{native}.weight": one.clone() for native, one in tensors.items()})
    file["distilled_guidance_layer.layers.0.in_layer.weight"] = torch.zeros(1)  # Chroma's are counted
    convert_file: Any = SINGLE_FILE_LOADABLE_CLASSES[base.spec.components["transformer"].loader]
    found = convert_file["checkpoint_mapping_fn"](checkpoint=file)
    for native, parts in modules.native.items():
        for part in parts:
            name = part.name.removeprefix("transformer.")
            assert torch.equal(found[f"{name}.weight"], tensors[native][part.start : part.stop]), (native, name)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_comfyui_is_given_the_keys_that_it_maps(name: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(name)
    if base.spec.lora.comfyui is None:
        assert name == "sana", "ComfyUI has a model of every other kind"
        assert "comfyui" not in written_formats(base.spec.lora, list(formats()))
        return
    assert name != "sana", "ComfyUI has none of this kind"
    lora = base.lora("all-linear")
    keys = list(exported_tensors(lora, "comfyui", "fp32"))
    assert comfyui_unmapped(lora, keys) == []
    assert any(key.startswith("lora_unet_") for key in keys) == (name in KOHYA_IN_COMFYUI)


def test_comfyui_leaves_out_what_diffusers_calls_lumina2s_modules(open_base: Callable[[str], Base]) -> None:
    lora = open_base("lumina2").lora("all-linear")
    keys = list(exported_tensors(lora, "diffusers", "fp32"))
    assert comfyui_unmapped(lora, keys) == keys
    flattened = [f"{lora.modules.kohya(name)}.lora_up.weight" for name in lora.layers]
    assert "lora_unet_layers_0_attn_to_q.lora_up.weight" in comfyui_unmapped(lora, flattened)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_metadata_call_each_model_by_its_own_name(name: str, open_base: Callable[[str], Base]) -> None:
    base = open_base(name)
    medium = {"qk_norm": "rms_norm", "num_layers": 2}
    assert names_of_base(base.spec, {**base.config, **(medium if name == "sd3" else {})}) == ARCHITECTURES[name]


@pytest.mark.parametrize(
    ("name", "config", "architecture"),
    [
        ("flux1", {"guidance_embeds": False}, "flux-1-schnell"),
        ("flux1", {"guidance_embeds": True}, "flux-1-dev"),
        ("flux2_klein", {"joint_attention_dim": 7680}, "Flux.2-klein-4b"),
        ("flux2_klein", {"joint_attention_dim": 12288}, "Flux.2-klein-9b"),
        ("sd3", {"num_layers": 24, "qk_norm": None}, "stable-diffusion-3-medium"),
        ("sd3", {"num_layers": 24, "qk_norm": "rms_norm"}, "stable-diffusion-3-5-medium"),
        ("sd3", {"num_layers": 38, "qk_norm": "rms_norm"}, "stable-diffusion-3-5-large"),
        ("sd3", {}, "stable-diffusion-3"),
        ("qwen_image_edit", {"zero_cond_t": True}, "Qwen-Image-Edit-2511"),
    ],
)
def test_the_denoisers_config_tells_models_of_a_family_apart(
    name: str, config: Mapping[str, Any], architecture: str, open_base: Callable[[str], Base]
) -> None:
    assert names_of_base(open_base(name).spec, config)[0] == architecture
