"""One module a model, named after it: how diffusers itself encodes, packs and predicts. Found by being there."""

from __future__ import annotations

import importlib
import pkgutil

from tests.contract.models.base import Model

__all__ = ["MODELS", "Model"]

MODELS: dict[str, Model] = {
    module.name: importlib.import_module(f"{__name__}.{module.name}").MODEL
    for module in pkgutil.iter_modules(__path__)
    if module.name != "base"
}
