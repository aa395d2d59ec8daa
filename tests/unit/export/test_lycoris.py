"""Files of adapters that are no product of two matrices: written, read, converted, refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.export.support import config_of, modules_in
from trainer_core.adapter_kinds import adapter_kinds
from trainer_core.adapters.adapter import ADAPTERS
from trainer_core.adapters.layers import Layer, LoraLayer, LycorisLayer
from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig
from trainer_core.errors import ExportError
from trainer_core.export.convert import Request, convert
from trainer_core.export.format_support import held_formats, possible_formats, unsupported_reason
from trainer_core.export.hollow_models import hollow_denoiser
from trainer_core.export.metadata.kohya_metadata import network_arguments, network_module
from trainer_core.export.proof import comfyui_unmapped, prove
from trainer_core.export.readers.read import read_file, read_layers
from trainer_core.export.write import Lora, exported_tensors, write_lora
from trainer_core.families import get_family
from trainer_core.families.spec import LoraNames

KINDS = sorted(name for name, kind in adapter_kinds().items() if not kind.plain_lora)
ALL = ("diffusers", "kohya", "comfyui", "lycoris")


def lora_of(base: Path, family: str, kind: str, options: Any = None, **config: Any) -> Lora:
    """Return layers of random numbers over a tiny base without weights."""
    spec = get_family(family).spec
    denoiser: Any = hollow_denoiser(spec, config_of(base, family))
    for module in denoiser.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data = module.weight.data + 0.1
    settings = AdapterConfig.model_validate({"type": kind, "rank": 4, "alpha": 3.0, "targets": "attention"} | config)
    own = AdapterOptionsConfig.model_validate(options or {})
    parameters = ADAPTERS[kind].attach(denoiser, settings, own, spec.targets, 1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    layers = ADAPTERS[kind].layers(ADAPTERS[kind].state(denoiser), settings)
    return Lora({f"{spec.denoiser}.{name}": one for name, one in layers.items()}, modules_in(base, family))


def same(found: Mapping[str, Layer], wanted: Mapping[str, Layer]) -> None:
    assert found.keys() == wanted.keys()
    for name, layer in found.items():
        other = wanted[name]
        if isinstance(layer, LycorisLayer) and isinstance(other, LycorisLayer):
            assert layer.tensors.keys() == other.tensors.keys()
        else:
            assert isinstance(layer, LoraLayer) and isinstance(other, LoraLayer)
            assert layer.magnitude is not None and other.magnitude is not None
            assert torch.equal(layer.magnitude, other.magnitude)


@pytest.mark.parametrize("kind", KINDS)
def test_from_format_to_format_every_layer_stays(kind: str, tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    lora = lora_of(tiny_bases["sdxl"], "sdxl", kind)
    first, second, third = (tmp_path / f"{number}.safetensors" for number in range(3))
    write_lora(first, exported_tensors(lora, "lycoris", "fp32"), {})
    there = convert(first, second, Request("kohya", tiny_bases["sdxl"]))
    convert(second, third, Request("lycoris", tiny_bases["sdxl"]))
    assert there.proof.reader == "lycoris"
    same(read_layers(read_file(third)[0], lora.modules), lora.layers)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"ia3", "dora"}))
@pytest.mark.parametrize("family", ["sdxl", "flux1"])
def test_comfyui_maps_every_key_of_its_file(kind: str, family: str, tiny_bases: dict[str, Path]) -> None:
    lora = lora_of(tiny_bases[family], family, kind)
    keys = list(exported_tensors(lora, "comfyui", "fp16"))
    assert comfyui_unmapped(lora, keys) == []


def test_comfyui_would_load_another_dora_and_leaves_some_scales_out(tiny_bases: dict[str, Path]) -> None:
    dora = lora_of(tiny_bases["sdxl"], "sdxl", "dora")
    assert all(
        key.endswith(".dora_scale") for key in comfyui_unmapped(dora, list(exported_tensors(dora, "kohya", "fp32")))
    )
    turned = lora_of(tiny_bases["sdxl"], "sdxl", "diag-oft", {"rescaled": True})
    left = comfyui_unmapped(turned, list(exported_tensors(turned, "kohya", "fp32")))
    assert left and all(key.endswith(".rescale") for key in left)
    butterfly = lora_of(tiny_bases["sdxl"], "sdxl", "boft", {"rescaled": True})
    assert comfyui_unmapped(butterfly, list(exported_tensors(butterfly, "kohya", "fp32"))) == []


def test_a_damaged_layer_fails_the_proof(tiny_bases: dict[str, Path], tmp_path: Path) -> None:
    lora, path = lora_of(tiny_bases["sdxl"], "sdxl", "loha"), tmp_path / "lora.safetensors"
    tensors = exported_tensors(lora, "comfyui", "fp16")
    key = next(key for key in tensors if key.endswith("hada_w1_b"))
    write_lora(path, {**tensors, key: tensors[key] * 1.01}, {})
    with pytest.raises(ExportError, match=r"\(loha\): its update is off by 0\.0"):
        prove(path, "comfyui", lora, "fp16", None)
    alphas = {key: tensor * (2 if key.endswith(".alpha") else 1) for key, tensor in tensors.items()}
    write_lora(path, alphas, {})
    with pytest.raises(ExportError, match="modules are wrong"):
        prove(path, "comfyui", lora, "fp16", None)


@pytest.mark.setting("adapter_options.constraint")
def test_a_constraint_is_in_the_exported_blocks_because_readers_take_it_differently(
    tiny_bases: dict[str, Path],
) -> None:
    lora = lora_of(tiny_bases["sdxl"], "sdxl", "diag-oft", {"constraint": 1e-4})
    for layer in lora.layers.values():
        assert isinstance(layer, LycorisLayer)
        blocks = layer.tensors["oft_blocks"]
        limit = 1e-4 * blocks.shape[0] * blocks.shape[-1]
        assert float((blocks - blocks.transpose(-1, -2)).norm()) == pytest.approx(limit, rel=1e-4)
        assert layer.alpha == 0.0


@pytest.mark.parametrize("kind", ["loha", "lokr", "glora"])
def test_tensors_that_fp16_would_round_coarsely_are_balanced(kind: str, tiny_bases: dict[str, Path]) -> None:
    lora, factor = lora_of(tiny_bases["sdxl"], "sdxl", kind), 2.0**-12
    starts = ("hada_w2_a", "lokr_w2_b", "lokr_w2", "a2.weight", "b2.weight")
    small = {
        name: replace(one, tensors={k: t * factor if k in starts else t for k, t in one.tensors.items()})
        for name, one in lora.layers.items()
        if isinstance(one, LycorisLayer)
    }
    tensors = exported_tensors(Lora(small, lora.modules), "lycoris", "fp16")
    assert all(float(t.float().square().mean().sqrt()) > 2**-11 for key, t in tensors.items() if key.endswith(starts))


NAMES = {"plain": LoraNames(), "joined": LoraNames(native={"a": ("b",)}), "lokr": LoraNames(lokr_in_diffusers=True)}


@pytest.mark.setting("export.formats")
@pytest.mark.parametrize(
    ("adapter", "options", "names", "held"),
    [
        ({"type": "lora"}, {}, "joined", ALL),
        ({"type": "dylora"}, {}, "joined", ALL),
        ({"type": "locon"}, {"tucker": True}, "plain", ("kohya", "comfyui", "lycoris")),
        ({"type": "locon"}, {"decompose": True}, "plain", ("diffusers", "kohya", "lycoris")),
        ({"type": "dora"}, {}, "plain", ("diffusers", "kohya", "lycoris")),
        ({"type": "dora"}, {}, "joined", ("diffusers", "lycoris")),
        ({"type": "loha"}, {}, "joined", ("comfyui", "lycoris")),
        ({"type": "lokr"}, {}, "lokr", ALL),
        ({"type": "lokr"}, {"decompose": True}, "lokr", ("kohya", "lycoris")),
        ({"type": "ia3"}, {}, "joined", ("lycoris",)),
        ({"type": "diag-oft"}, {"rescaled": True}, "plain", ("kohya", "lycoris")),
        ({"type": "boft"}, {"rescaled": True}, "plain", ("kohya", "comfyui", "lycoris")),
        ({"type": "locon", "train_norm": True}, {}, "joined", ("lycoris",)),
    ],
)
def test_formats_hold_what_their_readers_load_right(adapter: Any, options: Any, names: str, held: Any) -> None:
    settings, own = AdapterConfig.model_validate(adapter), AdapterOptionsConfig.model_validate(options)
    assert held_formats(NAMES[names], ALL, settings, own) == held
    assert set(possible_formats(NAMES[names], settings, own)) & set(ALL) == set(held)
    assert all(bool(unsupported_reason(name, NAMES[names], settings, own)) is (name not in held) for name in ALL)


@pytest.mark.parametrize(
    ("adapter", "options", "module", "arguments"),
    [
        ({}, {}, "networks.own", {}),
        ({"dropout": 0.1, "conv_rank": 8}, {}, "networks.own", {"dropout": 0.1, "conv_dim": 8, "conv_alpha": 8}),
        ({"type": "dora"}, {}, "lycoris.kohya", {"algo": "lora", "dora_wd": True}),
        ({"type": "lokr"}, {"factor": 8}, "lycoris.kohya", {"algo": "lokr", "factor": 8}),
        ({"type": "boft"}, {"block_size": 8}, "lycoris.kohya", {"algo": "boft", "block_size": 8}),
    ],
)
def test_metadata_name_kohyas_module_and_its_arguments(adapter: Any, options: Any, module: str, arguments: Any) -> None:
    settings, own = AdapterConfig.model_validate(adapter), AdapterOptionsConfig.model_validate(options)
    assert network_module(settings, own, "networks.own") == module
    assert network_arguments(settings, own) == arguments


@pytest.mark.setting("adapter.blocks", "adapter.conv_alpha")
def test_diffusers_loads_modules_of_several_ranks_and_alphas_from_kohyas_keys(
    tiny_bases: dict[str, Path], tmp_path: Path
) -> None:
    blocks = {"mid_block.*": {"rank": 2, "alpha": 5.0}}
    lora, path = lora_of(tiny_bases["sd15"], "sd15", "locon", blocks=blocks, conv_rank=3), tmp_path / "lora.safetensors"
    write_lora(path, exported_tensors(lora, "kohya", "fp16"), {})
    assert prove(path, "kohya", lora, "fp16", config_of(tiny_bases["sd15"], "sd15")).reader == "diffusers"
