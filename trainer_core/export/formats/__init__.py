"""Formats of LoRA files. A module of this package that defines `FORMAT` is a format; its name is the format's name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache

from trainer_core.export.lora_format import LoraFormat
from trainer_core.families.spec import LoraNames


@cache
def formats() -> dict[str, LoraFormat]:
    """Return all formats by name, in alphabetical order."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: module.FORMAT for name, module in modules.items() if hasattr(module, "FORMAT")}


def written_formats(names: LoraNames, asked: Sequence[str]) -> tuple[str, ...]:
    """Return those of the formats asked for, each once, that exist for a family with these names."""
    return tuple(name for name in dict.fromkeys(asked) if formats()[name].style(names) is not None)
