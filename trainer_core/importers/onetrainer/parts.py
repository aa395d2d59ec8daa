"""OneTrainer's keys of the adapter, the optimizer and the parts of the model."""

from __future__ import annotations

from collections.abc import Mapping

from trainer_core.importers.core import optimizers, schedules
from trainer_core.importers.core.components import text_encoder_rows, vae_row
from trainer_core.importers.core.convert import (
    amount,
    number,
    path,
    precision,
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
    quantised,
    refused,
    several,
    to,
)
from trainer_core.importers.core.key_table import unsupported as no
from trainer_core.importers.core.memory_settings import base_rows, offloaded
from trainer_core.importers.onetrainer import targets
from trainer_core.types import JSON

HARDWARE = "It is a matter of hardware: `hardware.profile` decides."

ENCODERS: Mapping[str, int] = {"sd15": 1, "sdxl": 2, "sd3": 3, "flux1": 2, "chroma": 1, "sana": 1}


def _peft(value: JSON, context: Context) -> JSON:
    """Choose the kind; on UNets with all layers it adapts convolutions too."""
    kind = str(value)
    if kind == "LORA" and truth(context.get("lora_decompose")):
        return Conversion({"adapter.type": "dora"})
    everything = str(context.get("layer_filter_preset", "full")) == "full" and not context.get("layer_filter")
    if kind == "LORA" and everything and not context.flow:
        note = "With all layers it adapts the whole UNet, convolutions included."
        return Conversion({"adapter.type": "locon", **_conv(context, kind)}, note=note)
    if kind == "OFT_2":
        settings: dict[str, JSON] = {
            "adapter.type": "diag-oft",
            "adapter_options.block_size": number(context.get("oft_block_size", 32)),
        }
        return changed(settings, "OFTv2; ours is LyCORIS's Diag-OFT.")
    known = {"LORA": "lora", "LOHA": "loha", "LOKR": "lokr"}
    if kind not in known:
        return refused("Choose one of `adapter.type`.")
    return Conversion(
        {"adapter.type": known[kind], **(_conv(context, kind) if everything and not context.flow else {})}
    )


def _conv(context: Context, kind: str) -> dict[str, JSON]:
    rank = context.get("lokr_dim" if kind == "LOKR" else "lora_rank", 16)
    return {"adapter.conv_rank": number(rank), "adapter.conv_alpha": number(context.get("lora_alpha", 1))}


def _of(kind: str) -> Convert:
    def convert(value: JSON, context: Context) -> JSON:
        return (
            dropped("It belongs to another kind of adapter.")
            if str(context.get("peft_type", "LORA")) != kind
            else number(value)
        )

    return convert


def _switch(kind: str) -> Convert:
    def convert(value: JSON, context: Context) -> JSON:
        if str(context.get("peft_type", "LORA")) != kind or not truth(value):
            return dropped("It is off in the other tool.")
        return True

    return convert


def _rank(value: JSON, context: Context) -> JSON:
    return dropped("`lokr_dim` is read for LoKr.") if context.get("peft_type") == "LOKR" else number(value)


def _trained(value: JSON, context: Context) -> JSON:
    """Write which text encoders are trained: each is unless switched off."""
    names = ["text_encoder", "text_encoder_2", "text_encoder_3"][: ENCODERS.get(context.family, 0)]
    chosen = [
        name
        for name in names
        if truth(context.get(f"{name}.train", True)) and truth(context.get(f"{name}.include", True))
    ]
    return Conversion({"adapter.text_encoders": chosen}, note="It trains each text encoder unless `train` is false.")


def _encoder_lr(value: JSON, context: Context) -> JSON:
    names = ["text_encoder", "text_encoder_2", "text_encoder_3"][: ENCODERS.get(context.family, 0)]
    chosen = [name for name in names if truth(context.get(f"{name}.train", True))]
    if not chosen:
        return dropped("No text encoder is trained.")
    base = context.get("learning_rate", 3e-6)
    rates = [number(context.get(f"{name}.learning_rate", base)) for name in chosen]
    return rates[0] if len(set(rates)) == 1 else rates


def _denoiser_lr(value: JSON, context: Context) -> JSON:
    """The denoiser's own rate goes before the common one."""
    mine = "transformer" if context.flow else "unet"
    if not context.key.startswith(mine):
        return dropped("It belongs to another model family.")
    return Conversion({"optimizer.lr": number(value)})


def _lr(value: JSON, context: Context) -> JSON:
    mine = "transformer" if context.flow else "unet"
    return (
        dropped(f"`{mine}.learning_rate` is used instead of it.")
        if context.get(f"{mine}.learning_rate")
        else number(value)
    )


def _part_trained(value: JSON, context: Context) -> JSON:
    mine = "transformer" if context.flow else "unet"
    if truth(value) or not context.key.startswith(mine):
        return dropped("The denoiser is always trained here.")
    return refused("The denoiser is always trained here.")


def _optimizer(value: JSON, context: Context) -> JSON:
    given = {
        key.partition(".")[2] for key, one in context.values.items() if key.startswith("optimizer.") and one is not None
    }
    found = dict.fromkeys(given)
    if "beta1" in given:
        found["betas"] = None
    return optimizers.chosen(optimizers.ONETRAINER, value, found)


def _betas(value: JSON, context: Context) -> JSON:
    every = [context.get(f"optimizer.beta{count}") for count in (1, 2, 3)]
    named = str(context.get("optimizer.optimizer", "ADAMW"))
    count = 3 if named.startswith(("AdEMAMix", "CAME", "ADAN", "DADAPT_ADAN")) else 2
    usual = (0.9, 0.99 if named.startswith("LION") else 0.999, 0.9999)
    found = [usual[index] if one is None else number(one) for index, one in enumerate(every[:count])]
    return Conversion({"optimizer.betas": found})


def _argument(name: str) -> Convert:
    def convert(value: JSON, context: Context) -> JSON:
        return (
            dropped("It is off in the other tool.")
            if value in (None, False)
            else Conversion({f"optimizer.args.{name}": value})
        )

    return convert


def checkpointing(value: JSON, context: Context) -> JSON:
    """Read the switch, which older versions wrote as the name of a kind."""
    if value == "CPU_OFFLOADED":
        return offloaded(value, context)
    if isinstance(value, str):
        return value != "OFF"
    return truth(value)


_PARTS = ("unet", "transformer", "prior", "vae", "text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
PARTS: list[Row] = [
    *[
        to(f"{part}.learning_rate", "optimizer.lr", unless_off(_denoiser_lr))
        for part in ("unet", "transformer", "prior")
    ],
    *[several(f"{part}.train", "", _part_trained) for part in ("unet", "transformer", "prior")],
    *[
        to(f"{part}.gradient_checkpointing", "train.gradient_checkpointing", checkpointing)
        for part in ("unet", "transformer")
    ],
    several("text_encoder.train", "adapter.text_encoders", _trained),
    several("text_encoder_2.train", "adapter.text_encoders", _trained),
    several("text_encoder_3.train", "adapter.text_encoders", _trained),
    *[
        to(f"{part}.learning_rate", "optimizer.text_encoder_lr", unless_off(_encoder_lr))
        for part in ("text_encoder", "text_encoder_2", "text_encoder_3")
    ],
    *[
        no(f"{part}.dropout_probability", "Drop whole captions with `caption.dropout`.")
        for part in ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4")
    ],
    to("transformer.guidance_scale", "noise.guidance", number),
    *irrelevant("unet.guidance_scale prior.guidance_scale", "It is for other models."),
    *irrelevant("transformer.attention_mask", "It is as in diffusers' pipeline."),
    to("vae.weight_dtype", "latents.precision", lambda value, context: precision(value, context)),
    vae_row("vae.model_name"),
    *text_encoder_rows(tuple(f"{part}.model_name" for part in _PARTS if part.startswith("text_encoder"))),
    *[
        no(f"{part}.model_name", "Put it into the folder of the base: a folder in diffusers' format has all parts.")
        for part in (
            "unet",
            "transformer",
            "prior",
            "effnet_encoder",
            "decoder",
            "decoder_text_encoder",
            "decoder_vqgan",
        )
    ],
    *[
        several(
            f"{part}.stop_training_after_unit",
            "",
            lambda value, context: (
                dropped("It is off.")
                if str(value) == "NEVER"
                else refused("A part is trained for the whole run or not at all.")
            ),
            status="unsupported",
        )
        for part in (
            "unet",
            "transformer",
            "prior",
            "text_encoder",
            "text_encoder_2",
            "text_encoder_3",
            "text_encoder_4",
        )
    ],
    *base_rows("unet.weight_dtype transformer.weight_dtype"),
    *[several(f"{part}.weight_dtype", "", quantised) for part in _PARTS if part not in ("vae", "unet", "transformer")],
    *[
        irrelevant(f"{part}.*", HARDWARE)[0]
        for part in (
            "unet",
            "transformer",
            "prior",
            "vae",
            "text_encoder",
            "text_encoder_2",
            "text_encoder_3",
            "text_encoder_4",
        )
    ],
    *[
        irrelevant(f"{part}.*", "It is for other models.")[0]
        for part in ("effnet_encoder", "decoder", "decoder_text_encoder", "decoder_vqgan", "unconditional_transformer")
    ],
    *irrelevant("quantization.*", "It belongs to a quantised `weight_dtype`."),
]

_WITH_EPS = ("ADAM", "ADAGRAD", "ADEMAMIX", "PRODIGY", "ADOPT", "LAMB", "SCHEDULE_FREE_ADAMW", "DADAPT_AD", "RMSPROP")
"""Beginnings of optimizers whose classes here know `eps`."""


def _eps(value: JSON, context: Context) -> JSON:
    kind = str(context.get("optimizer.optimizer", "ADAMW")).upper()
    if not kind.startswith((*_WITH_EPS, "ADABELIEF", "YOGI")) or not 0 < amount(value) <= 1e-2:
        return dropped("It is the default of the class.")
    return number(value)


ADAPTER: list[Row] = [
    several("peft_type", "adapter.type adapter.conv_rank adapter.conv_alpha", _peft),
    to("lora_rank", "adapter.rank", _rank),
    to("lokr_dim", "adapter.rank", _of("LOKR")),
    to("lora_alpha", "adapter.alpha", number, "Its default is 1."),
    *irrelevant("lora_decompose", "It chooses the kind of adapter: DoRA."),
    *irrelevant(
        "lora_decompose_norm_epsilon lora_decompose_output_axis lokr_vec_trick lokr_dora_on_output",
        "It changes how the other tool computes, not the result.",
    ),
    *irrelevant("lora_weight_dtype", "Adapters are fp32 here."),
    to("lora_model_name", "adapter.init_from", unless_off(path)),
    *irrelevant("oft_block_size", "See `peft_type`."),
    no("oft_block_share", "Here each block has its own rotation."),
    to("oft_scaled", "adapter_options.rescaled", _switch("OFT_2")),
    to("lokr_decompose_factor", "adapter_options.factor", _of("LOKR")),
    to("lokr_use_tucker", "adapter_options.tucker", _switch("LOKR")),
    to("lokr_weight_decompose", "adapter_options.decompose", _switch("LOKR")),
    to("lokr_full_matrix", "adapter_options.full_matrix", _switch("LOKR")),
    no("lokr_decompose_both", "Here the smaller factor of LoKr is always a full matrix."),
    to("dropout_probability", "adapter.dropout", unless_off(number)),
    several("layer_filter_preset", "adapter.targets", targets.of_preset),
    several("layer_filter", "adapter.targets", unless_off(targets.of_filter)),
    *irrelevant("layer_filter_regex", "See `layer_filter`."),
]

OPTIMIZER: list[Row] = [
    several("optimizer.optimizer", "optimizer.name optimizer.weight_decay", _optimizer),
    to("optimizer.weight_decay", "optimizer.weight_decay", number),
    to("optimizer.eps", "optimizer.eps", _eps),
    *[several(f"optimizer.beta{count}", "optimizer.betas", _betas) for count in (1, 2, 3)],
    several("optimizer.d_coef", "optimizer.args", _argument("d_coef")),
    several("optimizer.d0", "optimizer.args", _argument("d0")),
    several(
        "optimizer.growth_rate",
        "optimizer.args",
        lambda value, context: (
            dropped("There is no limit, as in the class.")
            if value in (None, "inf") or amount(value) > 1e30
            else Conversion({"optimizer.args.growth_rate": number(value)})
        ),
    ),
    several("optimizer.safeguard_warmup", "optimizer.args", _argument("safeguard_warmup")),
    several("optimizer.use_bias_correction", "optimizer.args", _argument("bias_correction")),
    several("optimizer.decouple", "optimizer.args", _argument("weight_decouple")),
    several("optimizer.momentum", "optimizer.args", _argument("momentum")),
    several("optimizer.nesterov", "optimizer.args", _argument("nesterov")),
    several("optimizer.relative_step", "optimizer.args", _argument("relative_step")),
    several("optimizer.scale_parameter", "optimizer.args", _argument("scale_parameter")),
    several("optimizer.warmup_init", "optimizer.args", _argument("warmup_init")),
    *memory("optimizer.fused_back_pass"),
    *irrelevant("optimizer.fused optimizer.foreach optimizer.stochastic_rounding", HARDWARE),
    *irrelevant("optimizer.min_8bit_size optimizer.is_paged optimizer.optim_bits optimizer.block_wise", HARDWARE),
    *irrelevant("optimizer.quant_block_size optimizer.fsdp_in_use optimizer.capturable optimizer.compile", HARDWARE),
    *irrelevant(
        "optimizer.differentiable optimizer.maximize optimizer.percentile_clipping",
        "It belongs to classes of the other program.",
    ),
    no("optimizer.*", "This is an argument of that tool's class. `optimizer.args` lists ours."),
    to("learning_rate", "optimizer.lr", _lr),
    several(
        "learning_rate_scheduler", "schedule.name", lambda value, context: schedules.named(schedules.ONETRAINER, value)
    ),
    no("custom_learning_rate_scheduler", "It is a class of your own code. Choose one of `schedule.name`."),
    no("scheduler_params", "These are arguments of a class of your own code."),
    several(
        "learning_rate_warmup_steps",
        "schedule.warmup_steps schedule.warmup_ratio",
        lambda value, context: _warmup(value, context),
    ),
    to("learning_rate_cycles", "schedule.cycles", lambda value, context: max(1, round(amount(value)))),
    to("learning_rate_min_factor", "schedule.min_lr_ratio", unless_off(number)),
    no("learning_rate_scaler", "Multiply `optimizer.lr` by it yourself.", (None, "NONE")),
    no("loss_scaler", "Multiply `optimizer.lr` by it yourself.", (None, "NONE")),
    to("clip_grad_norm", "optimizer.max_grad_norm", number),
]


def _warmup(value: JSON, context: Context) -> JSON:
    """Up to 1 it is a share of the run, above that it counts steps."""
    found = amount(value)
    if found == 1:
        return changed({"schedule.warmup_ratio": 0.99}, "1 is the whole run there: it never reaches the rate.")
    return warmup(value, context)
