"""Which settings each kind of adapter knows. What a kind cannot do is refused: nothing is ignored in silence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer_core.types import Finding

if TYPE_CHECKING:
    from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig

_LOW_RANK = frozenset({"lora", "locon", "dora"})
_FACTORED = _LOW_RANK | {"loha", "lokr", "glora"}
_TURNING = frozenset({"diag-oft", "boft"})
ALL = _FACTORED | _TURNING | {"dylora", "ia3", "full"}

KNOWN_BY = {
    "adapter.dropout": _FACTORED | {"dylora", "full"},
    "adapter.rank_dropout": _FACTORED,
    "adapter.train_norm": ALL - {"lora"},
    "adapter_options.rslora": _FACTORED | {"dylora"},
    "adapter_options.factor": frozenset({"lokr"}),
    "adapter_options.full_matrix": frozenset({"lokr"}),
    "adapter_options.block_size": _TURNING | {"dylora"},
    "adapter_options.constraint": _TURNING,
    "adapter_options.rescaled": _TURNING,
    "adapter_options.tucker": frozenset({"locon", "loha", "lokr"}),
    "adapter_options.decompose": frozenset({"locon", "loha", "lokr"}),
}
"""Setting -> kinds that know it; settings that are not here are known by all."""
SCALED = _FACTORED | {"dylora"}
"""Kinds whose update is scaled by alpha / rank."""
NEEDS_WEIGHT = frozenset({"glora", "dora"})
"""Kinds that compute with the base's weight itself, as everything decomposed does."""


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
    if adapter.type == "dylora" and (ranks := [one for one in _ranks(adapter) if one % block]):
        message = f"{block} does not divide the rank {ranks[0]}."
        yield Finding("error", "adapter_options.block_size", message, "DyLoRA trains that many ranks together.")
    if adapter.rank_from_weights and adapter.init_from is None:
        fix = "Name the file in adapter.init_from."
        yield Finding("error", "adapter.rank_from_weights", "there are no weights to take ranks from.", fix)
    if options.full_matrix and (adapter.rank_dropout or options.rslora):
        name = "adapter.rank_dropout" if adapter.rank_dropout else "adapter_options.rslora"
        yield Finding("error", name, "with full_matrix LoKr has no ranks.", "Leave one of the two out.")


def _idle(adapter: AdapterConfig, options: AdapterOptionsConfig) -> Iterator[Finding]:
    usual = type(adapter).model_fields["alpha"].default
    if adapter.type not in SCALED and adapter.alpha != usual:
        fix = "Leave it out; optimizer.lr decides how far it goes."
        yield Finding("warning", "adapter.alpha", f"does nothing: {adapter.type} is not scaled.", fix)
    if adapter.conv_alpha and not adapter.conv_rank and adapter.type != "locon":
        message = "does nothing: no convolution larger than 1x1 is adapted."
        yield Finding("warning", "adapter.conv_alpha", message, "Set adapter.conv_rank, or adapter.type: locon.")
    if options.tucker and not adapter.conv_rank and adapter.type != "locon":
        message = "does nothing: only convolutions larger than 1x1 are decomposed, and none is adapted."
        yield Finding("warning", "adapter_options.tucker", message, "Set adapter.conv_rank.")


def _ranks(adapter: AdapterConfig) -> list[int]:
    sizes = [adapter.rank, adapter.conv_rank, *(block.rank for block in adapter.blocks.values())]
    return [one for one in sizes if one]
