"""kohya's keys of the network and of its arguments (`network_args`), LyCORIS's among them."""

from __future__ import annotations

from collections.abc import Mapping

from trainer_core.importers.core.convert import amount, number, on, path, several_numbers, truth, unless_off
from trainer_core.importers.core.key_table import (
    Context,
    Conversion,
    Default,
    Row,
    changed,
    dropped,
    irrelevant,
    refused,
    several,
    to,
)
from trainer_core.importers.core.key_table import unsupported as no
from trainer_core.importers.kohya import blocks, targets
from trainer_core.types import JSON

ENCODERS: Mapping[str, tuple[str, ...]] = {
    "sd15": ("text_encoder",),
    "sdxl": ("text_encoder", "text_encoder_2"),
    "sd3": ("text_encoder", "text_encoder_2"),
    "flux1": ("text_encoder",),
    "lumina2": ("text_encoder",),
}
"""Text encoders that the tools train beside the denoiser, unless switched off."""
_T5: Mapping[str, str] = {"sd3": "text_encoder_3", "flux1": "text_encoder_2", "chroma": "text_encoder"}

ALGORITHMS: Mapping[str, str] = {
    "lora": "locon",
    "locon": "locon",
    "loha": "loha",
    "lokr": "lokr",
    "dylora": "dylora",
    "ia3": "ia3",
    "glora": "glora",
    "full": "full",
    "diag-oft": "diag-oft",
    "boft": "boft",
}
"""LyCORIS's `algo` -> `adapter.type`. Its `lora` adapts convolutions as well."""
_WHOLE = 4096
"""Dimensions above this ask LoKr for whole matrices."""
_NO_CONVOLUTIONS = "No convolution larger than 1x1 is adapted."
_LORA_FA = "Its fixed down matrices are about 2.4 times as large as ours: 2.4 times `optimizer.lr` trains as fast."
_OFT = "kohya's own OFT; ours is LyCORIS's Diag-OFT."
NETWORKS: Mapping[str, Conversion] = {
    "networks.lora": Conversion({"adapter.type": "lora"}),
    "networks.lora_sd3": Conversion({"adapter.type": "lora"}),
    "networks.lora_flux": Conversion({"adapter.type": "lora"}),
    "networks.lora_lumina": Conversion({"adapter.type": "lora"}),
    "networks.loha": Conversion({"adapter.type": "loha"}),
    "networks.lokr": Conversion({"adapter.type": "lokr"}),
    "networks.dylora": Conversion({"adapter.type": "dylora"}),
    "networks.oft": changed({"adapter.type": "diag-oft"}, _OFT),
    "networks.oft_flux": changed({"adapter.type": "diag-oft"}, _OFT),
    "networks.lora_fa": changed({"adapter.type": "lora-fa"}, _LORA_FA),
    "locon.locon_kohya": Conversion({"adapter.type": "locon"}),
}


def is_lycoris(context: Context) -> bool:
    """Say whether the network is LyCORIS's."""
    return str(context.get("network_module", "")).startswith("lycoris")


def encoders(context: Context) -> tuple[str, ...]:
    """Return the text encoders that are trained: kohya's do unless switched off, or unless they are cached."""
    rates = context.get("text_encoder_lr")
    off = rates is not None and all(amount(rate) == 0 for rate in several_numbers(rates))
    cached = any(truth(context.get(f"cache_text_encoder_outputs{end}")) for end in ("", "_to_disk"))
    if truth(context.get("network_train_unet_only")) or off or cached:
        return ()
    more = _T5.get(context.family) if truth(context.get("network_args.train_t5xxl")) else None
    return (*ENCODERS.get(context.family, ()), *([more] if more else []))


def _network(value: JSON, context: Context) -> JSON:
    """Choose the kind of adapter, and what kohya's own networks adapt."""
    if is_lycoris(context):
        return dropped("`network_args` name the kind of adapter.")
    found = NETWORKS.get(str(value))
    if found is None:
        return refused("We do not know this network. Choose one of `adapter.type`.")
    adapted = targets.of_network(str(value), context)
    kind = found.settings["adapter.type"]
    if kind == "lora" and amount(context.get("network_args.conv_dim")) and not context.flow:
        kind = "locon"
    status = "changed" if "changed" in (found.status, adapted.status) else "mapped"
    note = " ".join(part for part in (found.note, adapted.note) if part)
    return Conversion({"adapter.type": kind, **adapted.settings}, status, note)


def _rank(value: JSON, context: Context) -> JSON:
    """LoKr with a huge dimension trains whole matrices."""
    if context.get("network_args.algo") == "lokr" and amount(value) > _WHOLE:
        return Conversion({"adapter_options.full_matrix": True}, note="Such a large dimension means whole matrices.")
    return number(value)


def _convolves(context: Context) -> bool:
    """Say whether LyCORIS adapts convolutions larger than 1x1: on UNets, and with its full preset only."""
    return not context.flow and str(context.get("network_args.preset", "full")) == "full"


def _plain(context: Context) -> bool:
    """Say whether what LyCORIS calls lora or locon is a LoRA of Linears alone."""
    algo = str(context.get("network_args.algo", "lora")).lower()
    return is_lycoris(context) and algo in ("lora", "locon") and not _convolves(context)


def _algo(value: JSON, context: Context) -> JSON:
    if _plain(context):
        kind = "dora" if truth(context.get("network_args.dora_wd")) else "lora"
        return Conversion({"adapter.type": kind}, note="It adapts no convolution larger than 1x1 here.")
    found = ALGORITHMS.get(str(value).lower())
    return found or refused("We do not know this algorithm. Choose one of `adapter.type`.")


def _preset(value: JSON, context: Context) -> JSON:
    return targets.of_lycoris(str(value).lower(), context.family)


def _unet_only(value: JSON, context: Context) -> JSON:
    """Write which text encoders get a LoRA."""
    chosen = encoders(context)
    if not chosen:
        return Conversion({"adapter.text_encoders": []}, note="No text encoder is trained.")
    return Conversion(
        {"adapter.text_encoders": list(chosen)}, note="kohya trains the text encoders unless switched off."
    )


def _text_encoder_lr(value: JSON, context: Context) -> JSON:
    chosen, rates = encoders(context), several_numbers(value)
    if not chosen:
        return dropped("No text encoder is trained.")
    if len(rates) > len(chosen):
        rates = rates[: len(chosen)]
    return rates[0] if len(set(rates)) == 1 else [*rates, *[rates[-1]] * (len(chosen) - len(rates))]


def _decompose(value: JSON, context: Context) -> JSON:
    if not truth(value):
        return dropped("It is off in the other tool.")
    return dropped("It chooses the kind of adapter: DoRA.") if _plain(context) else True


def _tucker(value: JSON, context: Context) -> JSON:
    if not truth(value):
        return dropped("It is off in the other tool.")
    return dropped(_NO_CONVOLUTIONS) if is_lycoris(context) and not _convolves(context) else True


def _norm(value: JSON, context: Context) -> JSON:
    if not truth(value):
        return dropped("It is off in the other tool.")
    return refused("A plain LoRA does not train norms. Use `adapter.type: locon`.") if _plain(context) else True


def _conv(value: JSON, context: Context) -> JSON:
    if context.flow or (is_lycoris(context) and not _convolves(context)):
        return dropped(_NO_CONVOLUTIONS)
    if is_lycoris(context) and not amount(value):
        return number(context.get("network_dim", 4))
    if context.get("network_args.algo") == "lokr" and amount(value) > _WHOLE:
        return Conversion(
            {"adapter.conv_rank": 1}, note="Convolutions are adapted. With whole matrices the rank has no effect."
        )
    return int(amount(value)) if amount(value) else dropped("It is off in the other tool.")


def _conv_alpha(value: JSON, context: Context) -> JSON:
    own = is_lycoris(context)
    if (
        context.flow
        or (own and not _convolves(context))
        or (not own and not amount(context.get("network_args.conv_dim")))
    ):
        return dropped(_NO_CONVOLUTIONS)
    return number(context.get("network_alpha", 1)) if own and not amount(value) else number(value)


def _plus(value: JSON, context: Context) -> JSON:
    return number(value) if amount(value) else dropped("It is off in the other tool.")


_GIVEN = "Implied by the kind of adapter."
_INNER = "It changes how the other tool computes, not the result. There is nothing to choose here."

ROWS: list[Row] = [
    several("network_module", "adapter.type adapter.targets", _network),
    to("network_dim", "adapter.rank", _rank, "Its default is 4."),
    to("network_alpha", "adapter.alpha", number, "Its default is 1, so the update is scaled by 1 / rank."),
    to("network_dropout", "adapter.dropout", unless_off(number)),
    to("network_weights", "adapter.init_from", unless_off(lambda value, context: _weights(value, context))),
    to("dim_from_weights", "adapter.rank_from_weights", on),
    several("network_train_unet_only", "adapter.text_encoders", _unet_only),
    no("network_train_text_encoder_only", "The denoiser is always trained here."),
    to("text_encoder_lr", "optimizer.text_encoder_lr", _text_encoder_lr),
    no(
        "scale_weight_norms", "We do not limit norms. A lower `optimizer.lr` or `adapter.dropout` has a similar effect."
    ),
    no("base_weights", "Merge it into the base first, and train on that."),
    no("base_weights_multiplier", "Merge it into the base first, and train on that."),
    to("network_args.algo", "adapter.type", _algo),
    to("network_args.preset", "adapter.targets", _preset),
    to("network_args.conv_dim", "adapter.conv_rank", _conv, "LyCORIS uses `network_dim` if it is missing."),
    to("network_args.conv_alpha", "adapter.conv_alpha", _conv_alpha, "In kohya's own networks its default is 1."),
    to("network_args.dropout", "adapter.dropout", unless_off(number)),
    to("network_args.rank_dropout", "adapter.rank_dropout", unless_off(number)),
    to("network_args.module_dropout", "adapter.module_dropout", unless_off(number)),
    to("network_args.loraplus_lr_ratio", "optimizer.lora_plus_ratio", _plus),
    to(
        "network_args.loraplus_unet_lr_ratio",
        "optimizer.lora_plus_ratio",
        _plus,
        "Text encoders use the same ratio.",
        "changed",
    ),
    no("network_args.loraplus_text_encoder_lr_ratio", "All modules have the same ratio: `optimizer.lora_plus_ratio`."),
    to("network_args.factor", "adapter_options.factor", number),
    to("network_args.full_matrix", "adapter_options.full_matrix", on),
    to("network_args.use_tucker", "adapter_options.tucker", _tucker),
    to("network_args.use_cp", "adapter_options.tucker", _tucker),
    to("network_args.dora_wd", "adapter_options.decompose", _decompose),
    to("network_args.rs_lora", "adapter_options.rslora", on),
    to("network_args.block_size", "adapter_options.block_size", unless_off(number)),
    to("network_args.unit", "adapter_options.block_size", unless_off(number)),
    to("network_args.constraint", "adapter_options.constraint", unless_off(number)),
    to("network_args.constrain", "adapter_options.constraint", unless_off(number)),
    to("network_args.rescaled", "adapter_options.rescaled", on),
    to("network_args.train_norm", "adapter.train_norm", _norm),
    *blocks.ROWS,
    no("network_args.conv_block_dims", "Write the ranks of convolutions in `adapter.blocks`."),
    no("network_args.conv_block_alphas", "Write the ranks of convolutions in `adapter.blocks`."),
    no("network_args.network_reg_dims", "Write it in `adapter.blocks`, with the module names of diffusers."),
    no(
        "network_args.network_reg_lrs",
        "The denoiser has one rate. A module with rank 0 in `adapter.blocks` is left out.",
    ),
    no(
        "network_args.down_lr_weight",
        "Blocks cannot have rates of their own. A block with rank 0 in `adapter.blocks` is left out.",
    ),
    no(
        "network_args.mid_lr_weight",
        "Blocks cannot have rates of their own. A block with rank 0 in `adapter.blocks` is left out.",
    ),
    no(
        "network_args.up_lr_weight",
        "Blocks cannot have rates of their own. A block with rank 0 in `adapter.blocks` is left out.",
    ),
    no(
        "network_args.block_lr_zero_threshold",
        "Blocks cannot have rates of their own. A block with rank 0 in `adapter.blocks` is left out.",
    ),
    no("network_args.decompose_both", "Here the smaller factor of LoKr is always a full matrix."),
    no("network_args.use_scalar", "Our adapters always start with an update of zero and have no scalar."),
    no("network_args.train_on_input", "Here IA3 always scales outputs."),
    no("network_args.in_dims", "Embedders outside the blocks are never adapted here."),
    no("network_args.ggpo_sigma", "We do not perturb weights."),
    no("network_args.ggpo_beta", "We do not perturb weights."),
    several(
        "network_args.train_t5xxl",
        "adapter.text_encoders",
        lambda value, context: dropped("See the keys of the text encoders."),
    ),
    *irrelevant("network_args.bypass_mode network_args.verbose network_args.rank_dropout_scale", _INNER),
    *irrelevant("network_args.split_qkv", "Query, key and value always have an adapter each here."),
    *irrelevant("network_args.enable_all_linear", _GIVEN),
]


def _weights(value: JSON, context: Context) -> JSON:
    return path(value, context)


def _conv_default(context: Context) -> JSON:
    return context.get("network_dim", 4)


DEFAULTS: list[Default] = [
    Default("network_module", "networks.lora"),
    Default("network_dim", 4),
    Default("network_alpha", 1),
    Default("network_train_unet_only", False),
    Default(
        "text_encoder_lr",
        lambda context: context.get("learning_rate", 2e-6),
        lambda context: context.get("unet_lr") is not None,
    ),
    Default("network_args.algo", "lora", is_lycoris),
    Default("network_args.preset", "full", is_lycoris),
    Default("network_args.conv_dim", _conv_default, lambda context: is_lycoris(context) and not context.flow),
    Default("network_args.conv_alpha", lambda context: context.get("network_alpha", 1), is_lycoris),
    Default(
        "network_args.conv_alpha",
        1,
        lambda context: not is_lycoris(context) and bool(context.get("network_args.conv_dim")),
    ),
]
