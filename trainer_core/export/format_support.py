"""Which formats can hold an adapter so that their readers load it right. The others are refused before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer_core.export.formats import formats, written_formats

if TYPE_CHECKING:
    from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig
    from trainer_core.families.spec import LoraNames


def unsupported_reason(
    format_name: str, names: LoraNames, adapter: AdapterConfig, options: AdapterOptionsConfig
) -> str:
    """Return why a format cannot hold an adapter of a family; empty if it can.

    Args:
        format_name: a format that exists for the family.
        names: the family's.
        adapter: kind and settings.
        options: what only some kinds have.
    """
    return formats()[format_name].unsupported_reason(names, adapter, options)


def held_formats(
    names: LoraNames, asked: Sequence[str], adapter: AdapterConfig, options: AdapterOptionsConfig
) -> tuple[str, ...]:
    """Return those of the formats asked for, each once, that exist for a family and can hold the adapter."""
    written = written_formats(names, asked)
    return tuple(name for name in written if not unsupported_reason(name, names, adapter, options))


def possible_formats(names: LoraNames, adapter: AdapterConfig, options: AdapterOptionsConfig) -> tuple[str, ...]:
    """Return all formats that can."""
    return held_formats(names, list(formats()), adapter, options)
