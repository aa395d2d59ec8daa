"""Which formats can hold an adapter so that their readers load it right. The rest is refused before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer_core.export.formats import formats, written_formats
from trainer_core.families.spec import LoraNames

if TYPE_CHECKING:
    from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig

_PRODUCTS = frozenset({"lora", "locon", "dylora", "dora"})
"""Kinds whose update is a product of two matrices, with magnitudes or without."""
_COMFYUI_MAGNITUDES = (
    "ComfyUI measures magnitudes by the base's rows, training by the changed ones: it loads another one"
)


def refusal(format_name: str, names: LoraNames, adapter: AdapterConfig, options: AdapterOptionsConfig) -> str:
    """Return why a format cannot hold an adapter of a family; empty if it can.

    Args:
        format_name: a format that exists for the family.
        names: the family's.
        adapter: kind and settings.
        options: what only some kinds have.
    """
    return _REFUSALS.get(format_name, _nothing)(names, adapter, options)


def held_formats(
    names: LoraNames, asked: Sequence[str], adapter: AdapterConfig, options: AdapterOptionsConfig
) -> tuple[str, ...]:
    """Return those of the formats asked for, each once, that exist for a family and can hold the adapter."""
    return tuple(name for name in written_formats(names, asked) if not refusal(name, names, adapter, options))


def possible_formats(names: LoraNames, adapter: AdapterConfig, options: AdapterOptionsConfig) -> tuple[str, ...]:
    """Return all formats that can."""
    return held_formats(names, list(formats()), adapter, options)


def _nothing(names: LoraNames, adapter: AdapterConfig, options: AdapterOptionsConfig) -> str:
    return ""


def _diffusers(names: LoraNames, adapter: AdapterConfig, options: AdapterOptionsConfig) -> str:
    if adapter.train_norm:
        return "diffusers reads no norms"
    if adapter.type in _PRODUCTS:
        return "diffusers reads no Tucker decompositions" if options.tucker else ""
    if adapter.type == "lokr" and names.lokr_in_diffusers:
        return "diffusers reads no decomposed LoKr" if options.decompose else ""
    return f"diffusers reads no {adapter.type}"


def _kohya(names: LoraNames, adapter: AdapterConfig, options: AdapterOptionsConfig) -> str:
    plain = adapter.type in _PRODUCTS - {"dora"} and not (options.decompose or options.tucker or adapter.train_norm)
    if names.native and not plain:
        return "kohya's keys join modules here, and only plain LoRA can be joined"
    return ""


def _comfyui(names: LoraNames, adapter: AdapterConfig, options: AdapterOptionsConfig) -> str:
    if adapter.type == "ia3":
        return "ComfyUI reads no ia3"
    if adapter.type == "dora" or options.decompose:
        return _COMFYUI_MAGNITUDES
    if adapter.type == "diag-oft" and options.rescaled:
        return "ComfyUI leaves the scales of diag-oft out"
    if adapter.train_norm and names.native:
        return "ComfyUI has other names for the norms here"
    return ""


_REFUSALS = {"diffusers": _diffusers, "kohya": _kohya, "comfyui": _comfyui}
"""Format -> why it cannot hold an adapter; `lycoris` holds all."""
