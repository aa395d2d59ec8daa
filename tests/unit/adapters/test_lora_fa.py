"""LoRA-FA trains up matrices alone, and its files are plain LoRA."""

from __future__ import annotations

import torch

from tests.unit.adapters.support import Model, attach, disturb, output
from trainer_core.adapters.adapter import ADAPTERS
from trainer_core.adapters.layers import LoraLayer
from trainer_core.config.groups import AdapterConfig

KIND = "lora-fa"


def test_only_up_matrices_are_trained() -> None:
    parameters = attach(Model(), KIND)
    assert parameters and {name.rpartition(".lora_")[2] for name in parameters} == {"up.weight"}


def test_half_of_a_square_layers_numbers_are_trained() -> None:
    trained = {kind: sum(tensor.numel() for tensor in attach(Model(), kind).values()) for kind in (KIND, "lora")}
    # in and out are 32 and 64, 64 and 32, and 32 and 32, so that both matrices are of one size in all
    assert 2 * trained[KIND] == trained["lora"]


def test_its_layers_are_plain_lora_with_the_down_matrix_that_the_seed_gave() -> None:
    model = Model()
    parameters = attach(model, KIND, seed=5)
    started = {name: tensor for name, tensor in ADAPTERS[KIND].state(model).items() if "lora_down" in name}
    disturb(parameters, 0.1)
    settings = AdapterConfig.model_validate({"type": KIND, "rank": 4, "alpha": 3.0})
    layers = ADAPTERS[KIND].layers(ADAPTERS[KIND].state(model), settings)
    assert {type(layer) for layer in layers.values()} == {LoraLayer}
    for name, layer in layers.items():
        assert isinstance(layer, LoraLayer)
        assert torch.equal(layer.down, started[f"{name}.lora_down.weight"])  # nothing was computed with it


def test_it_goes_on_from_a_plain_lora_with_the_same_update() -> None:
    lora = Model()
    disturb(attach(lora, "locon"), 0.1)
    settings = AdapterConfig.model_validate({"type": "locon", "rank": 4, "alpha": 3.0, "conv_rank": 4})
    layers = ADAPTERS["locon"].layers(ADAPTERS["locon"].state(lora), settings)
    begun = Model()
    attach(begun, KIND, initial=layers, conv_rank=4)
    assert torch.allclose(output(begun), output(lora), atol=1e-6)
