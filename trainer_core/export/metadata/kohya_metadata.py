"""What metadata call an adapter: the module of kohya's trainer that makes such ones, and its arguments there."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    plain = adapter.type in ("lora", "dylora", "locon") and not (options.decompose or options.tucker)
    return own if plain and not adapter.train_norm else LYCORIS


def network_arguments(adapter: AdapterConfig, options: AdapterOptionsConfig) -> dict[str, object]:
    """Return `ss_network_args`: what differs from the defaults."""
    told: dict[str, object] = (
        {} if adapter.type == "lora" else {"algo": "lora" if adapter.type == "dora" else adapter.type}
    )
    for name in ("dropout", "rank_dropout", "module_dropout", "train_norm"):
        if value := getattr(adapter, name):
            told[name] = value
    if adapter.conv_rank or adapter.type == "locon":
        told["conv_dim"] = adapter.conv_rank or adapter.rank
        told["conv_alpha"] = adapter.conv_alpha or (adapter.conv_rank or adapter.alpha)
    for name, theirs in _OPTIONS.items():
        if (value := getattr(options, name)) != type(options).model_fields[name].default:
            told[theirs] = value
    if adapter.type == "dora" or options.decompose:
        told["dora_wd"] = True
    if options.block_size:
        told["unit" if adapter.type == "dylora" else "block_size"] = options.block_size
    return told
