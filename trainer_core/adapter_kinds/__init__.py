"""Kinds of adapters. A module of this package that defines `ADAPTERS` or `LAYERS` is found by itself: one file a kind.

It stands below the settings, so that rules, plans and importers can ask what a kind can do. Nothing here imports torch
until an adapter is put on a model.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType

from trainer_core.adapter_kinds.kind import AdapterKind, LayerKind


@cache
def adapter_kinds() -> dict[str, AdapterKind]:
    """Return every value of `adapter.type` with what it can do, plain LoRA first, then by name."""
    kinds: list[AdapterKind] = [kind for module in _modules() for kind in getattr(module, "ADAPTERS", ())]
    return {kind.name: kind for kind in sorted(kinds, key=lambda kind: (not kind.with_peft, kind.name))}


@cache
def layer_kinds() -> dict[str, LayerKind]:
    """Return every kind of layer by name."""
    kinds: dict[str, LayerKind] = {}
    for module in _modules():
        kinds |= getattr(module, "LAYERS", {})
    return kinds


def kinds_with(setting: str) -> frozenset[str]:
    """Return the kinds of adapters that support one of `kind.SETTINGS_OF_SOME`, such as `adapter.dropout`."""
    return frozenset(name for name, kind in adapter_kinds().items() if setting in kind.settings)


def _modules() -> list[ModuleType]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [importlib.import_module(f"{__name__}.{name}") for name in names]
