"""Which layers of a denoiser are held in a scheme, and putting them there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from torch import nn

from trainer_core.families.storage.quantised_linear import CODECS, QuantisedLinear
from trainer_core.families.storage.schemes import Storage

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.families.spec import StoredLayers


def chosen_layers(model: nn.Module, layers: StoredLayers, storage: Storage) -> list[str]:
    """Return the names of the linear layers that a scheme applies to, in module order.

    Args:
        model: the denoiser, with or without memory.
        layers: the family's regexes.
        storage: which of them.
    """
    if storage.dense:
        return []
    pattern = re.compile(layers.pattern(storage.modules))
    return [name for name, module in model.named_modules() if type(module) is nn.Linear and pattern.fullmatch(name)]


def hollow_layers(model: nn.Module, layers: StoredLayers, storage: Storage) -> dict[str, QuantisedLinear]:
    """Put a layer without memory in the place of each chosen one; return them by name."""
    hollow: dict[str, QuantisedLinear] = {}
    for name in chosen_layers(model, layers, storage):
        linear: Any = model.get_submodule(name)
        eight_bit = storage.compute == "w8a8"
        assert storage.scheme != "dense", "nothing is chosen then"
        layer = QuantisedLinear(linear.out_features, linear.in_features, storage.scheme, eight_bit)
        layer.bias = linear.bias
        model.set_submodule(name, layer)
        hollow[name] = layer
    return hollow


def quantise(model: nn.Module, layers: StoredLayers, storage: Storage) -> nn.Module:
    """Put the weights of a model that is in memory into a scheme, layer by layer, where they are."""
    weights: dict[str, Tensor] = {
        name: model.get_submodule(name).weight  # type: ignore[misc]
        for name in chosen_layers(model, layers, storage)
    }
    for name, layer in hollow_layers(model, layers, storage).items():
        layer.give(CODECS[storage.scheme].encode(weights.pop(name).detach()))
    return model.requires_grad_(False)
