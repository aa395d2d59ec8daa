from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer_core.adapters import lora
from trainer_core.adapters.layers import LoraLayer
from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig
from trainer_core.errors import ConfigError
from trainer_core.families import get_family
from trainer_core.families.model_source import ModelSource
from trainer_core.families.shared import loading


@pytest.fixture
def unet(tiny_bases: dict[str, Path]) -> torch.nn.Module:
    family = get_family("sd15")
    return loading.load_denoiser(ModelSource.open(tiny_bases["sd15"], None, family.spec), torch.bfloat16)


def _attach(unet: torch.nn.Module, **changes: object) -> list[torch.nn.Parameter]:
    config = AdapterConfig.model_validate({"rank": 4, "alpha": 2.0} | changes)
    return list(lora.attach(unet, config, AdapterOptionsConfig(), get_family("sd15").spec.targets, seed=5).values())


def test_only_lora_weights_require_gradients_and_they_are_float32(unet: torch.nn.Module) -> None:
    parameters = _attach(unet)
    trained = [name for name, parameter in unet.named_parameters() if parameter.requires_grad]
    assert len(trained) == len(parameters)
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}


def test_a_fresh_lora_changes_nothing_and_its_seed_decides_a(unet: torch.nn.Module) -> None:
    _attach(unet)
    state = lora.state(unet)
    assert all(not tensor.any() for name, tensor in state.items() if name.endswith("lora_B.weight"))
    assert all(tensor.any() for name, tensor in state.items() if name.endswith("lora_A.weight"))


def test_state_goes_out_and_back_bit_for_bit(unet: torch.nn.Module) -> None:
    _attach(unet)
    before = {name: torch.randn_like(tensor) for name, tensor in lora.state(unet).items()}
    lora.load_state(unet, before)
    after = lora.state(unet)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_more_targets_match_more_modules(unet: torch.nn.Module) -> None:
    presets = get_family("sd15").spec.targets
    attention = lora.matched_modules(unet, "attention", presets)
    more = lora.matched_modules(unet, "attention+mlp", presets)
    assert set(attention) < set(more)
    assert lora.matched_modules(unet, r".*attn2\.to_k", presets) == [
        name for name in attention if name.endswith("attn2.to_k")
    ]


@pytest.mark.parametrize("targets", ["nothing_like_this", "(["])
def test_targets_that_match_nothing_or_are_no_regex_are_refused(unet: torch.nn.Module, targets: str) -> None:
    with pytest.raises(ConfigError, match=r"adapter\.targets"):
        lora.matched_modules(unet, targets, get_family("sd15").spec.targets)


def test_layers_are_the_pairs_of_the_state_with_their_alpha(unet: torch.nn.Module) -> None:
    _attach(unet)
    state = lora.state(unet)
    layers = lora.layers(state, AdapterConfig(rank=4, alpha=2.0))
    assert 2 * len(layers) == len(state)
    for name, layer in layers.items():
        assert isinstance(layer, LoraLayer)
        assert layer.down is state[f"{name}.lora_A.weight"]
        assert layer.up is state[f"{name}.lora_B.weight"]
        assert (layer.rank, layer.scale) == (4, 0.5)


def test_a_disabled_adapter_is_the_base_and_is_trained_on_afterwards(unet: torch.nn.Module) -> None:
    inputs = (torch.randn(1, 4, 8, 8).bfloat16(), torch.tensor([10]), torch.randn(1, 5, 32).bfloat16())
    with torch.no_grad():
        base = unet(*inputs).sample
        parameters = _attach(unet)
        for parameter in parameters:
            parameter.add_(0.1)
        changed = unet(*inputs).sample
        with lora.disabled(unet):
            assert torch.equal(unet(*inputs).sample, base)
        assert torch.equal(unet(*inputs).sample, changed)
    assert not torch.equal(changed, base)
    assert all(parameter.requires_grad for parameter in parameters)


def test_an_error_while_disabled_leaves_the_adapter_on(unet: torch.nn.Module) -> None:
    parameters = _attach(unet)
    with pytest.raises(RuntimeError), lora.disabled(unet):
        raise RuntimeError
    assert all(parameter.requires_grad for parameter in parameters)
