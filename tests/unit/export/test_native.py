"""Files with the names of the model's original code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.unit.export.support import assert_same, modules_in, random_lora, targets
from trainer_core.adapters.layers import LoraLayer
from trainer_core.errors import ExportError
from trainer_core.export.formats import formats
from trainer_core.export.module_names import Modules
from trainer_core.export.proof import comfyui_unmapped
from trainer_core.export.readers.read import read_layers
from trainer_core.export.write import Lora, exported_tensors
from trainer_core.families import family_names, get_family

NATIVE = formats()["native"]


@pytest.fixture(scope="module")
def flux1(tiny_bases: dict[str, Path]) -> Modules:
    return modules_in(tiny_bases["flux1"], "flux1", text=True)


def test_unets_and_sana_have_no_such_file() -> None:
    without = {name for name in family_names() if NATIVE.style(get_family(name).spec.lora) is None}
    assert without == {"sd15", "sdxl", "sana"}


def test_modules_that_the_original_code_joins_are_joined_without_an_alpha(flux1: Modules) -> None:
    block = "transformer.transformer_blocks.0.attn."
    lora = random_lora(flux1, [f"{block}to_q", f"{block}to_v"], rank=4, alpha=2.0)
    tensors = exported_tensors(lora, "native", "fp32")
    name = "diffusion_model.double_blocks.0.img_attn.qkv"
    assert set(tensors) == {f"{name}.lora_A.weight", f"{name}.lora_B.weight"}
    up, down = tensors[f"{name}.lora_B.weight"], tensors[f"{name}.lora_A.weight"]
    assert up.shape == (96, 8) and not up[32:64].any()
    query = lora.layers[f"{block}to_q"]
    assert isinstance(query, LoraLayer)
    assert torch.allclose((up @ down)[:32], query.up @ query.down * 0.5, atol=1e-6)


def test_text_encoders_go_along_and_comfyui_maps_every_key(flux1: Modules) -> None:
    clip = [name for name in flux1.shapes if name.startswith("text_encoder.") and "self_attn" in name]
    lora = random_lora(flux1, [*targets(flux1), *clip])
    tensors = exported_tensors(lora, "native", "fp32")
    assert comfyui_unmapped(lora, list(tensors)) == []
    assert_same(read_layers(tensors, flux1), lora.layers)


def test_a_layer_that_is_no_plain_lora_is_refused_with_a_way_out(flux1: Modules) -> None:
    (name, layer), *_ = random_lora(flux1, targets(flux1)[:1]).layers.items()
    assert isinstance(layer, LoraLayer)
    dora = Lora({name: replace(layer, magnitude=torch.ones(layer.up.shape[0]))}, flux1)
    with pytest.raises(ExportError, match=r"no plain LoRA.*export\.formats"):
        exported_tensors(dora, "native", "fp32")
