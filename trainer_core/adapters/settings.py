"""Checks the adapter's settings against its kind. What a kind does not support is refused, never ignored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer_core.adapter_kinds import adapter_kinds, kinds_with
from trainer_core.adapter_kinds.kind import SETTINGS_OF_SOME
from trainer_core.types import Finding

if TYPE_CHECKING:
    from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig

KNOWN_BY = {setting: kinds_with(setting) for setting in SETTINGS_OF_SOME}
"""Setting -> kinds that support it; settings that are not here are supported by all."""


def adapter_findings(adapter: AdapterConfig, options: AdapterOptionsConfig) -> list[Finding]:
    """Return what a kind cannot do with its settings, and what does nothing, before a model is read."""
    return [*_unknown(adapter, options), *_conflicts(adapter, options), *_idle(adapter, options)]


def _unknown(adapter: AdapterConfig, options: AdapterOptionsConfig) -> Iterator[Finding]:
    groups = {"adapter": adapter, "adapter_options": options}
    for setting, kinds in KNOWN_BY.items():
        group, _, name = setting.partition(".")
        value = getattr(groups[group], name)
        if adapter.type not in kinds and value != type(groups[group]).model_fields[name].default:
            message = f"is {value}, but {adapter.type} does not support {setting}."
            fix = f"Leave it out, or take adapter.type: {', '.join(sorted(kinds))}."
            yield Finding("error", setting, message, fix)


def _conflicts(adapter: AdapterConfig, options: AdapterOptionsConfig) -> Iterator[Finding]:
    block = options.block_size or 4
    if adapter_kinds()[adapter.type].nested_ranks and (ranks := [rank for rank in _ranks(adapter) if rank % block]):
        message = f"{block} does not divide the rank {ranks[0]}."
        yield Finding("error", "adapter_options.block_size", message, "DyLoRA trains that many ranks together.")
    if adapter.rank_from_weights and adapter.init_from is None:
        fix = "Name the file in adapter.init_from."
        yield Finding("error", "adapter.rank_from_weights", "there are no weights to take ranks from.", fix)
    if options.full_matrix and (adapter.rank_dropout or options.rslora):
        name = "adapter.rank_dropout" if adapter.rank_dropout else "adapter_options.rslora"
        yield Finding("error", name, "with full_matrix LoKr has no ranks.", "Leave one of the two out.")


def _idle(adapter: AdapterConfig, options: AdapterOptionsConfig) -> Iterator[Finding]:
    usual, kind = type(adapter).model_fields["alpha"].default, adapter_kinds()[adapter.type]
    if not kind.scaled and adapter.alpha != usual:
        fix = "Leave it out; optimizer.lr decides how far it goes."
        yield Finding("warning", "adapter.alpha", f"does nothing: {adapter.type} is not scaled.", fix)
    if adapter.conv_alpha and not adapter.conv_rank and not kind.adapts_convolutions:
        message = "does nothing: no convolution larger than 1x1 is adapted."
        yield Finding("warning", "adapter.conv_alpha", message, "Set adapter.conv_rank, or adapter.type: locon.")
    if options.tucker and not adapter.conv_rank and not kind.adapts_convolutions:
        message = "does nothing: only convolutions larger than 1x1 are decomposed, and none is adapted."
        yield Finding("warning", "adapter_options.tucker", message, "Set adapter.conv_rank.")


def _ranks(adapter: AdapterConfig) -> list[int]:
    sizes = [adapter.rank, adapter.conv_rank, *(block.rank for block in adapter.blocks.values())]
    return [size for size in sizes if size]
