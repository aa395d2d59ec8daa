from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.export.support import assert_same, modules_in, random_lora, targets
from trainer_core.adapters.layers import LoraLayer
from trainer_core.config.groups import ExportConfig
from trainer_core.errors import ExportError, NonFiniteError
from trainer_core.export.formats import formats, written_formats
from trainer_core.export.module_names import Modules
from trainer_core.export.proof import comfyui_unmapped
from trainer_core.export.readers.read import read_layers
from trainer_core.export.write import Lora, exported_tensors
from trainer_core.families import family_names, get_family
from trainer_core.families.spec import LoraNames

FAMILIES = ("sd15", "sdxl", "flux1")


@pytest.fixture(scope="session")
def modules(tiny_bases: dict[str, Path]) -> dict[str, Modules]:
    return {family: modules_in(tiny_bases[family], family, text=True) for family in FAMILIES}


def test_every_format_can_be_asked_for() -> None:
    choices = get_args(get_args(ExportConfig.model_fields["formats"].annotation)[0])
    assert set(choices) == set(formats())
    assert all(name == one.name for name, one in formats().items())


def test_a_format_that_a_family_lacks_is_left_out_and_none_is_written_twice() -> None:
    asked = ("comfyui", "diffusers", "comfyui")
    assert written_formats(LoraNames(), asked) == ("comfyui", "diffusers")
    assert written_formats(LoraNames(comfyui=None), asked) == ("diffusers",)


@settings(max_examples=20)
@given(st.sampled_from(FAMILIES), st.data())
def test_from_diffusers_to_kohya_and_back_every_update_stays(
    modules: dict[str, Modules], family: str, data: st.DataObject
) -> None:
    own = modules[family]
    names = data.draw(st.lists(st.sampled_from(targets(own)), min_size=1, unique=True))
    lora = random_lora(own, names, data.draw(st.integers(1, 5)), data.draw(st.floats(0.1, 32)))
    peft = read_layers(exported_tensors(lora, "diffusers", "fp32"), own)
    assert_same(peft, lora.layers)
    kohya = read_layers(exported_tensors(Lora(peft, own), "kohya", "fp32"), own)
    assert_same(kohya, lora.layers)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["diffusers", "kohya", "comfyui"])
def test_all_that_a_preset_matches_has_a_name_in_every_format(
    modules: dict[str, Modules], family: str, name: str
) -> None:
    own = modules[family]
    tensors = exported_tensors(random_lora(own, targets(own)), name, "fp16")
    assert_same(read_layers(tensors, own), random_lora(own, targets(own)).layers, 1e-3)
    dtypes = {tensor.dtype for key, tensor in tensors.items() if not key.endswith(".alpha")}
    assert dtypes == {torch.float16}


@pytest.mark.parametrize(
    ("family", "name", "key"),
    [
        ("sd15", "diffusers", "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"),
        ("sd15", "kohya", "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_up.weight"),
        ("sd15", "comfyui", "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj.alpha"),
        ("sdxl", "kohya", "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"),
        ("flux1", "comfyui", "transformer.single_transformer_blocks.0.proj_mlp.lora_B.weight"),
        ("flux1", "kohya", "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"),
        ("flux1", "kohya", "lora_unet_single_blocks_0_linear1.alpha"),
    ],
)
def test_keys_are_those_that_the_readers_know(modules: dict[str, Modules], family: str, name: str, key: str) -> None:
    assert key in exported_tensors(random_lora(modules[family], targets(modules[family])), name, "fp32")


def test_fused_modules_are_block_diagonal_and_parts_not_trained_are_zero(modules: dict[str, Modules]) -> None:
    own = modules["flux1"]
    block = "transformer.transformer_blocks.0.attn."
    tensors = exported_tensors(random_lora(own, [f"{block}to_q", f"{block}to_v"]), "kohya", "fp32")
    up = tensors["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"]
    assert up.shape == (96, 8)
    assert up[:32, :4].all() and up[64:, 4:].all()
    assert not up[32:64].any() and not up[:32, 4:].any() and not up[64:, :4].any()
    assert float(tensors["lora_unet_double_blocks_0_img_attn_qkv.alpha"]) == 4.0
    assert len(tensors) == 3


def test_alpha_is_folded_into_lora_b_and_nothing_else_changes(modules: dict[str, Modules]) -> None:
    lora = random_lora(modules["sd15"], targets(modules["sd15"])[:1], rank=4, alpha=2.0)
    (name, layer), *_ = lora.layers.items()
    assert isinstance(layer, LoraLayer)
    tensors = exported_tensors(lora, "diffusers", "fp32")
    assert torch.equal(tensors[f"{name}.lora_A.weight"], layer.down)
    assert torch.equal(tensors[f"{name}.lora_B.weight"], layer.up * 0.5)


def test_alpha_stays_exact_in_a_file_of_low_precision(modules: dict[str, Modules]) -> None:
    tensors = exported_tensors(random_lora(modules["sd15"], targets(modules["sd15"])[:1], alpha=0.1), "kohya", "bf16")
    (alpha,) = [tensor for key, tensor in tensors.items() if key.endswith(".alpha")]
    assert float(alpha) == pytest.approx(0.1, rel=1e-7)


def test_text_encoders_have_their_wrapper_back(modules: dict[str, Modules]) -> None:
    sdxl, sd15, flux = (modules[name] for name in ("sdxl", "sd15", "flux1"))
    query = "encoder.layers.0.self_attn.q_proj"
    assert f"text_encoder.{query}" in sdxl.shapes
    flattened = "text_model_encoder_layers_0_self_attn_q_proj"
    assert sd15.kohya(f"text_encoder.{query}") == f"lora_te_{flattened}"
    assert sdxl.kohya(f"text_encoder.{query}") == f"lora_te1_{flattened}"
    assert sdxl.kohya(f"text_encoder_2.text_model.{query}") == f"lora_te2_{flattened}"
    assert sdxl.peft(f"text_encoder.{query}") == f"text_encoder.text_model.{query}"
    t5 = "encoder.block.0.layer.0.SelfAttention.q"
    assert flux.kohya(f"text_encoder_2.{t5}") == "lora_te3_encoder_block_0_layer_0_SelfAttention_q"


@pytest.mark.parametrize("family", FAMILIES)
def test_comfyui_maps_every_key_of_its_format_text_encoders_too(modules: dict[str, Modules], family: str) -> None:
    own = modules[family]
    clip = [name for name in own.shapes if name.startswith("text_encoder.") and "self_attn" in name]
    lora = random_lora(own, [*targets(own), *clip])
    assert comfyui_unmapped(lora, list(exported_tensors(lora, "comfyui", "fp32"))) == []


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_comfyui_leaves_out_peft_keys_of_unets(modules: dict[str, Modules], family: str) -> None:
    lora = random_lora(modules[family], targets(modules[family]))
    keys = list(exported_tensors(lora, "diffusers", "fp32"))
    assert comfyui_unmapped(lora, keys) == keys


def test_comfyui_maps_both_styles_of_flux(modules: dict[str, Modules]) -> None:
    lora = random_lora(modules["flux1"], targets(modules["flux1"]))
    for name in ("diffusers", "kohya"):
        assert comfyui_unmapped(lora, list(exported_tensors(lora, name, "fp32"))) == []
    assert comfyui_unmapped(lora, ["transformer.proj_out.lora_A.weight"]) == ["transformer.proj_out.lora_A.weight"]
    assert comfyui_unmapped(lora, ["lora_unet_double_blocks_0_img_attn_qkv.weight"])


def test_a_module_without_a_native_name_is_refused_with_a_way_out(modules: dict[str, Modules]) -> None:
    lora = random_lora(modules["flux1"], ["transformer.proj_out"])
    with pytest.raises(ExportError, match=r"transformer\.proj_out.*diffusers"):
        exported_tensors(lora, "kohya", "fp32")


def test_numbers_that_do_not_fit_are_named(modules: dict[str, Modules]) -> None:
    lora = random_lora(modules["sd15"], targets(modules["sd15"])[:1], alpha=1e9)
    with pytest.raises(NonFiniteError, match=r"lora_B\.weight.*fp16.*export\.dtype"):
        exported_tensors(lora, "diffusers", "fp16")


@pytest.mark.parametrize("family", family_names())
def test_a_familys_lora_names_are_consistent(family: str) -> None:
    spec = get_family(family).spec
    for native, sources in spec.lora.native.items():
        assert {source.count("{}") for source in sources} == {native.count("{}")}, native
    texts = [name for name, one in spec.components.items() if one.library == "transformers" and one.kind == "model"]
    assert set(texts) <= set(spec.lora.text_encoders) or spec.lora.comfyui != "kohya"
    assert "peft" in spec.lora.diffusers_reads
