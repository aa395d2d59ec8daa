from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.unit.export.support import assert_same, modules_in, random_lora, targets
from tests.unit.export.support import read_plain as read_layers
from trainer_core.adapters.layers import LoraLayer
from trainer_core.errors import ExportError
from trainer_core.export.hollow_models import hollow_denoiser, modules_of
from trainer_core.export.module_names import Modules
from trainer_core.export.readers.read import read_file
from trainer_core.export.readers.with_diffusers import load_with_diffusers
from trainer_core.export.write import Lora, exported_tensors, write_lora
from trainer_core.families import get_family

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def sdxl(tiny_bases: dict[str, Path]) -> Modules:
    return modules_in(tiny_bases["sdxl"], "sdxl", text=True)


@pytest.fixture(scope="module")
def flux1(tiny_bases: dict[str, Path]) -> Modules:
    return modules_in(tiny_bases["flux1"], "flux1")


def renamed(tensors: Tensors, change: Callable[[str], str]) -> Tensors:
    return {change(key): tensor for key, tensor in tensors.items()}


@pytest.fixture(scope="module")
def lora(sdxl: Modules) -> Lora:
    return random_lora(sdxl, targets(sdxl)[:6], rank=4, alpha=2.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key.replace("unet.", "diffusion_model.", 1),
        lambda key: key.replace("unet.", "base_model.model.", 1),
        lambda key: key.replace("unet.", "", 1),
        lambda key: key.replace(".lora_A.weight", ".lora_A.default.weight").replace("B.weight", "B.default.weight"),
        lambda key: key.replace("lora_A", "lora.down").replace("lora_B", "lora.up"),
    ],
)
def test_peft_keys_of_other_trainers_are_read(lora: Lora, change: Callable[[str], str]) -> None:
    tensors = renamed(exported_tensors(lora, "diffusers", "fp32"), change)
    assert_same(read_layers(tensors, lora.modules), lora.layers)


def test_an_absent_alpha_means_alpha_is_rank(lora: Lora) -> None:
    tensors = {k: v for k, v in exported_tensors(lora, "kohya", "fp32").items() if not k.endswith(".alpha")}
    assert {layer.scale for layer in read_layers(tensors, lora.modules).values()} == {1.0}


def test_alphas_beside_peft_keys_are_applied(lora: Lora) -> None:
    tensors: Tensors = {}
    for name, layer in lora.layers.items():
        assert isinstance(layer, LoraLayer)
        tensors |= {f"{name}.lora_A.weight": layer.down, f"{name}.lora_B.weight": layer.up}
        tensors[f"{name}.alpha"] = torch.tensor(layer.alpha)
    assert_same(read_layers(tensors, lora.modules), lora.layers)


def test_the_alpha_that_diffusers_keeps_in_the_metadata_is_applied(lora: Lora) -> None:
    first, *_ = lora.layers
    tensors: Tensors = {}
    for name, layer in lora.layers.items():
        assert isinstance(layer, LoraLayer)
        tensors |= {f"{name}.lora_A.weight": layer.down, f"{name}.lora_B.weight": layer.up}
    pattern = {first.removeprefix("unet."): 8.0}
    told = {"unet.lora_alpha": 2.0, "unet.r": 4, "unet.alpha_pattern": pattern}
    found = read_layers(tensors, lora.modules, {"lora_adapter_metadata": json.dumps(told)})
    assert found[first].scale == 2.0
    assert {layer.scale for name, layer in found.items() if name != first} == {0.5}


def test_kohyas_text_encoder_keys_are_read_with_either_prefix(sdxl: Modules) -> None:
    names = [name for name in sdxl.shapes if name.startswith("text_encoder") and name.endswith("q_proj")]
    lora = random_lora(sdxl, names)
    tensors = exported_tensors(lora, "kohya", "fp32")
    assert_same(read_layers(tensors, sdxl), lora.layers)
    one_clip = renamed(tensors, lambda key: key.replace("lora_te1_", "lora_te_"))
    assert_same(read_layers(one_clip, sdxl), lora.layers)


def test_fused_keys_of_flux_are_cut_as_their_rows_lie(flux1: Modules) -> None:
    down, up = torch.randn(4, 32), torch.randn(96, 4)
    for prefix in ("lora_unet_double_blocks_0_img_attn_qkv", "diffusion_model.double_blocks.0.img_attn.qkv"):
        tensors = {f"{prefix}.lora_down.weight": down, f"{prefix}.lora_up.weight": up}
        found = read_layers(tensors, flux1)
        block = "transformer.transformer_blocks.0.attn."
        assert list(found) == [f"{block}to_k", f"{block}to_q", f"{block}to_v"]
        whole = torch.cat([found[f"{block}{name}"].up for name in ("to_q", "to_k", "to_v")])
        assert torch.equal(whole, up)
        assert all(torch.equal(layer.down, down) for layer in found.values())
    again = exported_tensors(Lora(found, flux1), "kohya", "fp32")
    assert torch.equal(again["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"], up)


def test_1x1_convolutions_and_matrices_stand_for_each_other(sdxl: Modules) -> None:
    name = next(name for name in sdxl.shapes if name.endswith("proj_in"))
    lora = random_lora(sdxl, [name])
    tensors = {
        key: tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        for key, tensor in exported_tensors(lora, "kohya", "fp32").items()
    }
    assert_same(read_layers(tensors, sdxl), lora.layers)


def test_unknown_keys_are_listed(lora: Lora) -> None:
    tensors = exported_tensors(lora, "diffusers", "fp32")
    tensors |= {"unet.nowhere.lora_A.weight": torch.ones(1), "emb_params": torch.ones(1)}
    with pytest.raises(ExportError, match=r"my\.file: 2 of 14 keys .*: emb_params, unet\.nowhere\.lora_A\.weight"):
        read_layers(tensors, lora.modules, source="my.file")


def test_a_pair_that_lost_a_half_and_a_shape_that_does_not_fit_are_named(lora: Lora) -> None:
    tensors = exported_tensors(lora, "diffusers", "fp32")
    first = next(key for key in tensors if "lora_B" in key)
    half = {key: tensor for key, tensor in tensors.items() if key != first}
    with pytest.raises(ExportError, match=r"lora_A\.weight has no up beside it"):
        read_layers(half, lora.modules)
    with pytest.raises(ExportError, match=r"lora_B\.weight \[4, \d+\] do not fit"):
        read_layers({**tensors, first: tensors[first].T}, lora.modules)


def test_a_module_that_is_there_alone_and_fused_is_refused(flux1: Modules) -> None:
    name = "transformer.transformer_blocks.0.attn.to_q"
    lora = random_lora(flux1, [name])
    both = exported_tensors(lora, "diffusers", "fp32") | exported_tensors(lora, "kohya", "fp32")
    with pytest.raises(ExportError, match="twice"):
        read_layers(both, flux1)


@pytest.mark.parametrize(
    ("suffix", "what"),
    [
        (".lora_B.bias", "bias"),
        (".diff_b", "bias"),
        (".boft_R", "OFT in PEFT's tensors"),
        (".ia3_l", "PEFT's tensors"),
        (".bm.weight", "Tucker"),
    ],
)
def test_what_is_not_read_is_refused_with_the_reason(lora: Lora, suffix: str, what: str) -> None:
    tensors = exported_tensors(lora, "kohya", "fp32")
    tensors[f"lora_unet_mid_block_attentions_0_proj_in{suffix}"] = torch.ones(1)
    with pytest.raises(ExportError, match=what):
        read_layers(tensors, lora.modules)


def test_stabilitys_names_of_sdxl_mean_what_diffusers_takes_them_for(tmp_path: Path) -> None:
    """Against diffusers' own converter, on the blocks of the real SDXL."""
    config = {
        "block_out_channels": (32, 64, 128),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 3),
        "cross_attention_dim": 32,
        "attention_head_dim": (2, 4, 8),
        "use_linear_projection": True,
    }
    spec = get_family("sdxl").spec
    own = modules_of(spec, {"unet": hollow_denoiser(spec, config)})
    aliased = [name for name in targets(own) if name in own.aliases]
    assert set(aliased) == set(targets(own))
    kohya = exported_tensors(random_lora(own, aliased, rank=1), "kohya", "fp32")
    for name in aliased:
        prefix, alias = own.kohya(name), "lora_unet_" + own.aliases[name].replace(".", "_")
        for end in (".lora_down.weight", ".lora_up.weight", ".alpha"):
            kohya[alias + end] = kohya.pop(prefix + end)
    wanted = random_lora(own, aliased, rank=1)
    assert_same(read_layers(kohya, own), wanted.layers)
    write_lora(tmp_path / "sgm.safetensors", kohya, {})
    assert_same(load_with_diffusers(tmp_path / "sgm.safetensors", spec, config), wanted.layers)


def test_resnets_of_sdxl_have_the_names_of_stabilitys_code() -> None:
    names = get_family("sdxl").spec.lora.also_read
    assert names["input_blocks.4.0.in_layers.2"] == "down_blocks.1.resnets.0.conv1"
    assert names["input_blocks.6.0.op"] == "down_blocks.1.downsamplers.0.conv"
    assert names["output_blocks.2.2.conv"] == "up_blocks.0.upsamplers.0.conv"
    assert names["output_blocks.8.0.skip_connection"] == "up_blocks.2.resnets.2.conv_shortcut"
    assert names["middle_block.2.out_layers.3"] == "mid_block.resnets.1.conv2"


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    pickled, gone, broken = tmp_path / "a.pt", tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    pickled.touch()
    broken.write_bytes(b"\0" * 20)
    for path, what in ((pickled, "pickled"), (gone, "no such file"), (broken, "cannot be read")):
        with pytest.raises(ExportError, match=what):
            read_file(path)
    save_file({"a": torch.ones(1)}, tmp_path / "d.safetensors", metadata={"k": "v"})
    assert read_file(tmp_path / "d.safetensors")[1] == {"k": "v"}


@pytest.mark.parametrize(("end", "kind"), [(".hada_w1_a", "loha"), (".lokr_w1", "lokr"), (".diff", "full")])
def test_a_layer_of_lycoris_that_lacks_a_part_or_has_another_shape_is_named(lora: Lora, end: str, kind: str) -> None:
    tensors = {f"lora_unet_mid_block_attentions_0_proj_in{end}": torch.ones(1, 1)}
    with pytest.raises(ExportError, match=rf"proj_in\{end} \[1, 1\] make no {kind} for a weight"):
        read_layers(tensors, lora.modules)
