"""SimpleTuner's options of the adapter and the optimizer."""

from __future__ import annotations

from collections.abc import Mapping

from trainer_core.importers.core import optimizers, schedules
from trainer_core.importers.core.convert import (
    amount,
    diffusion_only,
    number,
    on,
    path,
    text,
    truth,
    unless_off,
    warmup,
)
from trainer_core.importers.core.key_table import (
    Context,
    Conversion,
    Convert,
    Row,
    changed,
    dropped,
    irrelevant,
    memory,
    refused,
    several,
    to,
)
from trainer_core.importers.core.key_table import unsupported as no
from trainer_core.importers.kohya.network import ALGORITHMS, ENCODERS
from trainer_core.types import JSON

HARDWARE = "It is a matter of hardware: `hardware.profile` decides."


_LORA_TARGETS: Mapping[str, str] = {
    "all": "attention",
    "context": r"transformer_blocks\.\d+\.attn\.(add_[qkv]_proj|to_add_out)",
    "context+ffs": r"transformer_blocks\.\d+\.(attn\.(add_[qkv]_proj|to_add_out)|ff_context\.net\.(0\.proj|2))",
    "tiny": r"single_transformer_blocks\.(7|20)\.proj_out",
    "nano": r"single_transformer_blocks\.7\.proj_out",
}
_WITH_LAST_LAYER: Mapping[str, str] = {
    "all+ffs": "all-linear",
    "all+ffs+embedder": "all-linear",
    "ai-toolkit": "all-linear+modulation",
}


def lycoris(context: Context) -> bool:
    """Say whether LyCORIS makes the adapter."""
    return str(context.get("lora_type", "standard")) == "lycoris"


def _type(value: JSON, context: Context) -> JSON:
    if lycoris(context):
        return dropped("The file of `lycoris_config` names the kind of adapter.")
    return Conversion({"adapter.type": "dora" if truth(context.get("use_dora")) else "lora"})


def _plain_lora(value: JSON, context: Context) -> JSON:
    return dropped("The file of `lycoris_config` is used instead of it.") if lycoris(context) else number(value)


def _algo(value: JSON, context: Context) -> JSON:
    return ALGORITHMS.get(str(value).lower()) or refused("Choose one of `adapter.type`.")


def _lycoris_rank(value: JSON, context: Context) -> JSON:
    """LoKr with a huge dimension trains whole matrices."""
    if amount(value) > 4096:
        return Conversion({"adapter_options.full_matrix": True}, note="Such a large dimension means whole matrices.")
    return int(amount(value))


def _lycoris_alpha(value: JSON, context: Context) -> JSON:
    if amount(context.get("lycoris.linear_dim")) > 4096:
        return dropped("Whole matrices are not scaled.")
    return number(value)


def _preset(value: JSON, context: Context) -> JSON:
    fix = "Write what it adapts as `adapter.targets`, and other ranks as `adapter.blocks`."
    kinds = [str(kind) for kind in (value if isinstance(value, list) else [value])]
    if all("Attention" in kind for kind in kinds):
        return Conversion({"adapter.targets": "attention"})
    if set(kinds) <= {"Attention", "FeedForward"} and kinds:
        return Conversion({"adapter.targets": "attention+mlp"})
    return refused(fix)


def _lora_target(value: JSON, context: Context) -> JSON:
    """Write what `flux_lora_target` names; `proj_out` there is also the model's last layer, outside of the blocks."""
    if str(value) in _LORA_TARGETS:
        return Conversion({"adapter.targets": _LORA_TARGETS[str(value)]})
    if str(value) in _WITH_LAST_LAYER:
        settings: dict[str, JSON] = {"adapter.targets": _WITH_LAST_LAYER[str(value)]}
        return changed(
            settings, "It adapts layers outside of the blocks too (the last one, with `embedder` the first)."
        )
    return refused("Write the modules that it adapts in `adapter.targets`: a regex over module names.")


def _encoders(value: JSON, context: Context) -> JSON:
    chosen = ENCODERS.get(context.family, ())
    return list(chosen) if chosen else refused("Text encoders of this family are not trained here.")


def _optimizer(value: JSON, context: Context) -> JSON:
    given = {key.partition(".")[2]: one for key, one in context.values.items() if key.startswith("optimizer_config.")}
    name = str(value)
    if "+" in name:
        found = optimizers.chosen(optimizers.SIMPLETUNER, name.partition("+")[0], given)
        return changed(found.settings, f"Its variant `+{name.partition('+')[2]}`; ours is the plain one.")
    return optimizers.chosen(optimizers.SIMPLETUNER, name, given)


def _betas(value: JSON, context: Context) -> JSON:
    first = context.get("optimizer_beta1", context.get("adam_beta1"))
    second = context.get("optimizer_beta2", context.get("adam_beta2"))
    if first is None and second is None:
        return dropped("It is the default of the class.")
    return Conversion(
        {
            "optimizer.betas": [
                number(first if first is not None else 0.9),
                number(second if second is not None else 0.999),
            ]
        }
    )


def _weighted_adam(setting: str) -> Convert:
    def convert(value: JSON, context: Context) -> JSON:
        if f"optimizer_config.{setting}" in context.values:
            return dropped("`optimizer_config` is used instead of it.")
        return number(value)

    return convert


def _cycles(value: JSON, context: Context) -> JSON:
    named = str(context.get("lr_scheduler")) in ("cosine_with_restarts", "sine")
    return max(1, int(amount(value))) if named else dropped("It is read for `cosine_with_restarts` only.")


def _power(value: JSON, context: Context) -> JSON:
    return (
        number(value)
        if str(context.get("lr_scheduler")) == "polynomial"
        else dropped("It is read for `polynomial` only.")
    )


def _end(value: JSON, context: Context) -> JSON:
    """Its schedules end at a rate, ours at a share of the peak."""
    if str(context.get("lr_scheduler")) not in ("polynomial", "cosine", "cosine_with_restarts"):
        return dropped("This schedule does not read it.")
    peak = amount(context.get("learning_rate", 4e-7))
    return (
        Conversion({"schedule.min_lr_ratio": min(1.0, round(amount(value) / peak, 6))})
        if peak
        else dropped("No learning rate is given.")
    )


def _clip(value: JSON, context: Context) -> JSON:
    if str(context.get("grad_clip_method", "value")) == "value":
        note = "It cuts each gradient's values at this; ours scales all of them to this norm."
        return changed({"optimizer.max_grad_norm": number(value)}, note)
    return number(value)


ADAPTER: list[Row] = [
    several("lora_type", "adapter.type", _type),
    *irrelevant("use_dora", "It chooses the kind of adapter: DoRA."),
    to("lora_rank", "adapter.rank", _plain_lora),
    to("lora_alpha", "adapter.alpha", _plain_lora, "Its default is the rank."),
    to("lora_dropout", "adapter.dropout", _plain_lora, "Its default is 0.1."),
    no("lora_init_type", "Adapters always start with an update of zero.", (None, "default", "")),
    no("peft_lora_target_modules", "Write the modules that it adapts in `adapter.targets`: a regex over module names."),
    *[several(key, "adapter.targets", _lora_target) for key in ("flux_lora_target", "sd3_lora_target")],
    no("peft_lora_mode", "Our adapter of this name is plain LoRA.", (None, "standard", "")),
    no("slider_lora_target", "Sliders are not trained here."),
    to("init_lora", "adapter.init_from", unless_off(path)),
    no("init_lokr_norm", "LoKr always starts with an update of zero here."),
    no("assistant_lora_path", "Merge it into the base first."),
    to(
        "lora_format",
        "export.formats",
        lambda value, context: ["comfyui"] if value == "comfyui" else dropped("It is the same here."),
    ),
    to("lycoris.algo", "adapter.type", _algo),
    to("lycoris.linear_dim", "adapter.rank", _lycoris_rank),
    to("lycoris.linear_alpha", "adapter.alpha", _lycoris_alpha),
    to(
        "lycoris.conv_dim",
        "adapter.conv_rank",
        diffusion_only(number, "This family has no convolutions in its blocks."),
    ),
    to(
        "lycoris.conv_alpha",
        "adapter.conv_alpha",
        diffusion_only(number, "This family has no convolutions in its blocks."),
    ),
    to("lycoris.dropout", "adapter.dropout", unless_off(number)),
    to("lycoris.rank_dropout", "adapter.rank_dropout", unless_off(number)),
    to("lycoris.module_dropout", "adapter.module_dropout", unless_off(number)),
    to("lycoris.factor", "adapter_options.factor", number),
    to("lycoris.full_matrix", "adapter_options.full_matrix", on),
    to("lycoris.use_tucker", "adapter_options.tucker", on),
    to("lycoris.dora_wd", "adapter_options.decompose", on),
    to("lycoris.rs_lora", "adapter_options.rslora", on),
    to("lycoris.block_size", "adapter_options.block_size", unless_off(number)),
    to("lycoris.constraint", "adapter_options.constraint", unless_off(number)),
    to("lycoris.rescaled", "adapter_options.rescaled", on),
    several("lycoris.apply_preset.target_module", "adapter.targets", _preset),
    *[
        no(
            f"lycoris.apply_preset.{key}",
            "Write other ranks in `adapter.blocks`, which gives a rank and an alpha to modules by a regex.",
        )
        for key in ("module_algo_map.*", "name_algo_map.*", "target_name")
    ],
    *irrelevant(
        "lycoris.multiplier lycoris.bypass_mode lycoris.use_scalar lycoris.weight_decompose",
        "It changes how the other tool computes, not the result.",
    ),
    *irrelevant("lycoris_config", "Its keys are reported one by one."),
    to("(adapted modules)", "adapter.targets", text),
]

OPTIMIZER: list[Row] = [
    to("learning_rate", "optimizer.lr", number),
    to(
        "text_encoder_lr",
        "optimizer.text_encoder_lr",
        lambda value, context: (
            number(value) if truth(context.get("train_text_encoder")) else dropped("No text encoder is trained.")
        ),
    ),
    to("train_text_encoder", "adapter.text_encoders", unless_off(_encoders)),
    several("optimizer", "optimizer.name", _optimizer),
    several("optimizer_config.*", "optimizer.weight_decay optimizer.args", optimizers.arguments),
    *irrelevant("optimizer_config", "Its arguments are reported one by one."),
    *[
        several(key, "optimizer.betas", _betas)
        for key in ("adam_beta1", "adam_beta2", "optimizer_beta1", "optimizer_beta2")
    ],
    to("adam_weight_decay", "optimizer.weight_decay", _weighted_adam("weight_decay")),
    to("adam_epsilon", "optimizer.eps", _weighted_adam("eps")),
    to("max_grad_norm", "optimizer.max_grad_norm", _clip),
    *irrelevant("grad_clip_method", "See `max_grad_norm`."),
    several("lr_scheduler", "schedule.name", lambda value, context: schedules.named(schedules.SIMPLETUNER, value)),
    several("lr_warmup_steps", "schedule.warmup_steps", unless_off(warmup)),
    to("lr_num_cycles", "schedule.cycles", _cycles),
    to("lr_power", "schedule.power", _power),
    several("lr_end", "schedule.min_lr_ratio", _end),
    no("lr_scale", "Multiply `optimizer.lr` by it yourself."),
    no("lr_scale_sqrt", "Multiply `optimizer.lr` by it yourself."),
    *memory("optimizer_cpu_offload_method optimizer_offload_gradients fuse_optimizer optimizer_release_gradients"),
    *irrelevant("gradient_precision prodigy_steps", HARDWARE),
]
