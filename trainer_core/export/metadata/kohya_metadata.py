"""`ss_network_module` and `ss_network_args`: the module of kohya's trainer for such an adapter, and its arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer_core.adapter_kinds import adapter_kinds

if TYPE_CHECKING:
    from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig

LYCORIS = "lycoris.kohya"
_OPTIONS = {
    "factor": "factor",
    "full_matrix": "full_matrix",
    "constraint": "constraint",
    "rescaled": "rescaled",
    "tucker": "use_tucker",
    "rslora": "rs_lora",
}
"""Option -> LyCORIS's name of it."""


def network_module(adapter: AdapterConfig, options: AdapterOptionsConfig, own: str) -> str:
    """Return `ss_network_module`.

    Args:
        adapter: kind and settings.
        options: what only some kinds have.
        own: the family's module for plain LoRA.
    """
    plain = adapter_kinds()[adapter.type].plain_lora and not (options.decompose or options.tucker)
    return own if plain and not adapter.train_norm else LYCORIS


def network_arguments(adapter: AdapterConfig, options: AdapterOptionsConfig) -> dict[str, object]:
    """Return `ss_network_args`: what differs from the defaults."""
    kind = adapter_kinds()[adapter.type]
    arguments: dict[str, object] = {} if kind.kohya_algo is None else {"algo": kind.kohya_algo or kind.name}
    for name in ("dropout", "rank_dropout", "module_dropout", "train_norm"):
        if value := getattr(adapter, name):
            arguments[name] = value
    if adapter.conv_rank or kind.adapts_convolutions:
        arguments["conv_dim"] = adapter.conv_rank or adapter.rank
        arguments["conv_alpha"] = adapter.conv_alpha or (adapter.conv_rank or adapter.alpha)
    for name, theirs in _OPTIONS.items():
        if (value := getattr(options, name)) != type(options).model_fields[name].default:
            arguments[theirs] = value
    if kind.magnitudes or options.decompose:
        arguments["dora_wd"] = True
    if options.block_size:
        arguments[kind.kohya_block_size] = options.block_size
    return arguments
