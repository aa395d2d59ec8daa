"""OneTrainer's keys of training."""

from __future__ import annotations

from collections.abc import Mapping

from trainer_core.importers import optimizers, schedules
from trainer_core.importers.convert import (
    amount,
    choice,
    diffusion_only,
    model_path,
    number,
    path,
    precision,
    text,
    truth,
    unless_off,
    warmup,
)
from trainer_core.importers.rows import (
    Context,
    Default,
    Fate,
    Row,
    Table,
    changed,
    dropped,
    irrelevant,
    refused,
    secret,
    several,
    to,
)
from trainer_core.importers.rows import unsupported as no
from trainer_core.types import JSON

HARDWARE = "Hardware: the profile decides (`hardware.profile`)."
_PROGRAM = "Of its program."
_ENCODERS: Mapping[str, int] = {"sd15": 1, "sdxl": 2, "sd3": 3, "flux1": 2, "chroma": 1, "sana": 1}
_UNITS = {"STEP": 1.0, "EPOCH": 1.0}
_SAMPLERS: Mapping[str, str] = {
    "ddim": "ddim",
    "euler": "euler",
    "euler_karras": "EulerDiscreteScheduler",
    "euler_a": "euler_a",
    "dpmpp": "dpmpp_2m",
    "dpmpp_karras": "dpmpp_2m",
    "dpmpp_sde": "DPMSolverSDEScheduler",
    "dpmpp_sde_karras": "DPMSolverSDEScheduler",
    "unipc": "UniPCMultistepScheduler",
    "unipc_karras": "UniPCMultistepScheduler",
}


def _peft(value: JSON, context: Context) -> JSON:
    """Choose the kind; on UNets with all layers it adapts convolutions too."""
    kind = str(value)
    if kind == "LORA" and truth(context.get("lora_decompose")):
        return Fate({"adapter.type": "dora"})
    everything = str(context.get("layer_filter_preset", "full")) == "full" and not context.get("layer_filter")
    if kind == "LORA" and everything and not context.flow:
        note = "With all layers it adapts the whole UNet; ours the convolutions and the blocks' Linears."
        return changed({"adapter.type": "locon", **_conv(context, kind)}, note)
    if kind == "OFT_2":
        settings: dict[str, JSON] = {
            "adapter.type": "diag-oft",
            "adapter_options.block_size": number(context.get("oft_block_size", 32)),
        }
        return changed(settings, "OFTv2; ours is LyCORIS's Diag-OFT.")
    known = {"LORA": "lora", "LOHA": "loha", "LOKR": "lokr"}
    if kind not in known:
        return refused("Choose one of `adapter.type`.")
    return Fate({"adapter.type": known[kind], **(_conv(context, kind) if everything and not context.flow else {})})


def _conv(context: Context, kind: str) -> dict[str, JSON]:
    rank = context.get("lokr_dim" if kind == "LOKR" else "lora_rank", 16)
    return {"adapter.conv_rank": number(rank), "adapter.conv_alpha": number(context.get("lora_alpha", 1))}


def _targets(value: JSON, context: Context) -> JSON:
    if context.get("layer_filter"):
        return dropped("`layer_filter` goes before it.")
    known = {"full": "all-linear", "attn-mlp": "attention+mlp", "attn-only": "attention", "blocks": "all-linear"}
    return known.get(str(value)) or refused("Write what it adapts as `adapter.targets`: a regex over module names.")


def _filter(value: JSON, context: Context) -> JSON:
    import re

    if truth(context.get("layer_filter_regex")):
        parts = [part.strip() for part in str(value).split(",")]
    else:
        parts = [re.escape(part.strip()) for part in str(value).split(",")]
    found = f".*({'|'.join(part for part in parts if part)}).*"
    return changed(
        {"adapter.targets": found}, "The same parts as one regex; check the names, which are diffusers' here."
    )


def _of(kind: str) -> JSON:
    def convert(value: JSON, context: Context) -> JSON:
        return (
            dropped("Of another kind of adapter.") if str(context.get("peft_type", "LORA")) != kind else number(value)
        )

    return convert


def _switch(kind: str) -> JSON:
    def convert(value: JSON, context: Context) -> JSON:
        if str(context.get("peft_type", "LORA")) != kind or not truth(value):
            return dropped("Off there.")
        return True

    return convert


def _rank(value: JSON, context: Context) -> JSON:
    return dropped("`lokr_dim` is LoKr's.") if context.get("peft_type") == "LOKR" else number(value)


def _trained(value: JSON, context: Context) -> JSON:
    """Write which text encoders are trained: each is unless switched off."""
    names = ["text_encoder", "text_encoder_2", "text_encoder_3"][: _ENCODERS.get(context.family, 0)]
    chosen = [
        name
        for name in names
        if truth(context.get(f"{name}.train", True)) and truth(context.get(f"{name}.include", True))
    ]
    return Fate({"adapter.text_encoders": chosen}, note="It trains each text encoder unless `train` is false.")


def _encoder_lr(value: JSON, context: Context) -> JSON:
    names = ["text_encoder", "text_encoder_2", "text_encoder_3"][: _ENCODERS.get(context.family, 0)]
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
        return dropped("Of another model family.")
    return Fate({"optimizer.lr": number(value)})


def _lr(value: JSON, context: Context) -> JSON:
    mine = "transformer" if context.flow else "unet"
    return dropped(f"`{mine}.learning_rate` goes before it.") if context.get(f"{mine}.learning_rate") else number(value)


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
    found = [number(one) for one in every[:count] if one is not None]
    return Fate({"optimizer.betas": found}) if len(found) > 1 else dropped("Read with the other betas.")


def _argument(name: str) -> JSON:
    def convert(value: JSON, context: Context) -> JSON:
        return dropped("Off there.") if value in (None, False) else Fate({f"optimizer.args.{name}": value})

    return convert


def _timesteps(value: JSON, context: Context) -> JSON:
    weight, bias = amount(context.get("noising_weight", 0)), amount(context.get("noising_bias", 0))
    shift: dict[str, JSON] = {}
    if context.flow:
        dynamic = truth(context.get("dynamic_timestep_shifting"))
        shift["noise.shift"] = "resolution" if dynamic else number(context.get("timestep_shift", 1.0))
    kind = str(value)
    if kind == "LOGIT_NORMAL":
        both: dict[str, JSON] = {"noise.logit_mean": bias, "noise.logit_std": weight + 1.0}
        return Fate(
            {"noise.timestep_sampling": "logit_normal", **both, **shift},
            note="Mean is the bias, deviation the weight plus 1.",
        )
    if kind == "HEAVY_TAIL":
        return Fate({"noise.timestep_sampling": "mode", "noise.mode_scale": weight, **shift})
    if kind in ("UNIFORM", "COS_MAP"):
        return Fate({"noise.timestep_sampling": "uniform" if kind == "UNIFORM" else "cosmap", **shift})
    note = f"We have no {kind}: uniform instead; `logit_normal` can be moved to where you want it."
    return changed({"noise.timestep_sampling": "uniform", **shift}, note)


def _weighting(value: JSON, context: Context) -> JSON:
    kind, strength = str(value), number(context.get("loss_weight_strength", 5.0))
    if kind == "CONSTANT" or (context.flow and kind != "SIGMA"):
        return dropped("All noise levels weigh alike.")
    if kind == "MIN_SNR_GAMMA":
        return Fate({"loss.min_snr_gamma": strength})
    if kind == "DEBIASED_ESTIMATION":
        return Fate({"loss.debiased": True})
    return refused("Use `loss.min_snr_gamma` or `loss.debiased`.")


def _loss(value: JSON, context: Context) -> JSON:
    """Of several strengths the one that is above 0 names the function."""
    names = {"mse_strength": "l2", "mae_strength": "l1", "huber_strength": "smooth_l1", "log_cosh_strength": "huber"}
    defaults = {"mse_strength": 1.0}
    strong = {key: amount(context.get(key, defaults.get(key, 0.0))) for key in names}
    used = [key for key, strength in strong.items() if strength > 0]
    if len(used) != 1:
        return changed({"loss.type": "l2"}, f"It mixes {', '.join(used)}; ours is one function: choose `loss.type`.")
    settings: dict[str, JSON] = {"loss.type": names[used[0]]}
    if used[0] == "huber_strength":
        settings |= {"loss.huber_c": number(context.get("huber_delta", 1.0)), "loss.huber_schedule": "constant"}
    if used[0] == "log_cosh_strength":
        return changed(settings, "We have no log-cosh; pseudo-Huber comes near.")
    if strong[used[0]] != 1:
        return changed(settings, f"Its strength {strong[used[0]]:g} scales the loss; ours is 1.")
    return Fate(settings)


def _every(setting: str, unit_key: str) -> JSON:
    """Write `N` with its unit: steps and epochs have settings of ours, times have not."""

    def convert(value: JSON, context: Context) -> JSON:
        unit = str(context.get(unit_key, "NEVER"))
        if unit == "NEVER" or not amount(value):
            return dropped("Never.")
        if unit == "EPOCH":
            return Fate({f"{setting}_epochs": number(value)})
        if unit == "STEP":
            return Fate({setting: int(amount(value))})
        return refused(
            f"Count in steps or epochs: `{setting}` or `{setting}_epochs`; {value} {unit.lower()} have no place."
        )

    return convert


def _samples_every(value: JSON, context: Context) -> JSON:
    if not context.get("(samples).prompts"):
        return dropped("No samples.")
    return _every("sample.every", "sample_after_unit")(value, context)


def _backup(value: JSON, context: Context) -> JSON:
    if str(context.get("backup_after_unit", "MINUTE")) == "STEP":
        return Fate({"train.checkpoint_every": int(amount(value))})
    return dropped("States are saved every `train.checkpoint_every` steps.")


def _masked(name: str) -> JSON:
    def convert(value: JSON, context: Context) -> JSON:
        if not truth(context.get("masked_training")):
            return dropped("Without masks.")
        return truth(value) if isinstance(value, bool) else number(value)

    return convert


def _ema(value: JSON, context: Context) -> JSON:
    if str(value) == "OFF":
        return dropped("Off there.")
    decay, step = amount(context.get("ema_decay", 0.999)), amount(context.get("ema_update_step_interval", 5)) or 1
    if step == 1:
        return Fate({"train.ema_decay": decay})
    note = f"It averages every {step:g} steps with {decay:g}; ours every step, with its {step:g}th root."
    return changed({"train.ema_decay": round(decay ** (1 / step), 6)}, note)


def _skip(value: JSON, context: Context) -> JSON:
    if context.family != "sd15":
        return dropped("Read for SD1.5 here.")
    return int(amount(value))


def _checkpointing(value: JSON, context: Context) -> JSON:
    if isinstance(value, str):
        return value != "OFF"
    return truth(value)


PARTS: list[Row] = [
    *[
        to(f"{part}.learning_rate", "optimizer.lr", unless_off(_denoiser_lr))
        for part in ("unet", "transformer", "prior")
    ],
    *[several(f"{part}.train", "", _part_trained) for part in ("unet", "transformer", "prior")],
    *[
        to(f"{part}.gradient_checkpointing", "train.gradient_checkpointing", _checkpointing)
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
    *irrelevant("unet.guidance_scale prior.guidance_scale", "Of other models."),
    *irrelevant("transformer.attention_mask", "As in diffusers' pipeline."),
    to("vae.weight_dtype", "latents.precision", lambda value, context: precision(value, context)),
    *[
        no(f"{part}.model_name", "Put it into the base's folder: a diffusers-format folder holds all parts.")
        for part in (
            "unet",
            "transformer",
            "prior",
            "vae",
            "text_encoder",
            "text_encoder_2",
            "text_encoder_3",
            "text_encoder_4",
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
                dropped("Never.") if str(value) == "NEVER" else refused("Parts are trained to the end or not at all.")
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
        irrelevant(f"{part}.*", "Of other models.")[0]
        for part in ("effnet_encoder", "decoder", "decoder_text_encoder", "decoder_vqgan", "unconditional_transformer")
    ],
    *irrelevant("quantization.*", HARDWARE),
]

ADAPTER: list[Row] = [
    several("peft_type", "adapter.type adapter.conv_rank adapter.conv_alpha", _peft),
    to("lora_rank", "adapter.rank", _rank),
    to("lokr_dim", "adapter.rank", _of("LOKR")),
    to("lora_alpha", "adapter.alpha", number, "Its default is 1."),
    *irrelevant("lora_decompose", "Told the kind: DoRA."),
    *irrelevant(
        "lora_decompose_norm_epsilon lora_decompose_output_axis lokr_vec_trick lokr_dora_on_output",
        "How its code computes the same.",
    ),
    *irrelevant("lora_weight_dtype", "Adapters are fp32 here."),
    to("lora_model_name", "adapter.init_from", unless_off(path)),
    *irrelevant("oft_block_size", "Written with `peft_type`."),
    no("oft_block_share", "Each block has a rotation of its own."),
    to("oft_scaled", "adapter_options.rescaled", _switch("OFT_2")),
    to("lokr_decompose_factor", "adapter_options.factor", _of("LOKR")),
    to("lokr_use_tucker", "adapter_options.tucker", _switch("LOKR")),
    to("lokr_weight_decompose", "adapter_options.decompose", _switch("LOKR")),
    to("lokr_full_matrix", "adapter_options.full_matrix", _switch("LOKR")),
    no("lokr_decompose_both", "LoKr's smaller factor is whole here."),
    to("dropout_probability", "adapter.dropout", unless_off(number)),
    to("layer_filter_preset", "adapter.targets", _targets),
    several("layer_filter", "adapter.targets", unless_off(_filter), status="changed"),
    *irrelevant("layer_filter_regex", "Read with `layer_filter`."),
]

OPTIMIZER: list[Row] = [
    several("optimizer.optimizer", "optimizer.name optimizer.weight_decay", _optimizer),
    to("optimizer.weight_decay", "optimizer.weight_decay", number),
    to(
        "optimizer.eps",
        "optimizer.eps",
        lambda value, context: (
            number(value) if amount(value) <= 1e-2 and amount(value) > 0 else dropped("The class's own.")
        ),
    ),
    *[several(f"optimizer.beta{count}", "optimizer.betas", _betas) for count in (1, 2, 3)],
    several("optimizer.d_coef", "optimizer.args", _argument("d_coef")),
    several("optimizer.d0", "optimizer.args", _argument("d0")),
    several(
        "optimizer.growth_rate",
        "optimizer.args",
        lambda value, context: (
            dropped("No limit, as in the class.")
            if value in (None, "inf") or amount(value) > 1e30
            else Fate({"optimizer.args.growth_rate": number(value)})
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
    *irrelevant("optimizer.fused optimizer.foreach optimizer.stochastic_rounding optimizer.fused_back_pass", HARDWARE),
    *irrelevant("optimizer.min_8bit_size optimizer.is_paged optimizer.optim_bits optimizer.block_wise", HARDWARE),
    *irrelevant("optimizer.quant_block_size optimizer.fsdp_in_use optimizer.capturable optimizer.compile", HARDWARE),
    *irrelevant("optimizer.differentiable optimizer.maximize optimizer.percentile_clipping", "Of its classes."),
    no("optimizer.*", "An argument of its class: see `optimizer.args` for those of ours."),
    to("learning_rate", "optimizer.lr", _lr),
    several(
        "learning_rate_scheduler", "schedule.name", lambda value, context: schedules.named(schedules.ONETRAINER, value)
    ),
    no("custom_learning_rate_scheduler", "A class of its own: choose one of `schedule.name`."),
    no("scheduler_params", "Arguments of a class of its own."),
    several(
        "learning_rate_warmup_steps",
        "schedule.warmup_steps schedule.warmup_ratio",
        lambda value, context: _warmup(value, context),
    ),
    to("learning_rate_cycles", "schedule.cycles", lambda value, context: max(1, round(amount(value)))),
    to("learning_rate_min_factor", "schedule.min_lr_ratio", unless_off(number)),
    no("learning_rate_scaler", "Multiply `optimizer.lr` yourself.", (None, "NONE")),
    no("loss_scaler", "Multiply `optimizer.lr` yourself.", (None, "NONE")),
    to("clip_grad_norm", "optimizer.max_grad_norm", number),
]

TRAINING: list[Row] = [
    to("base_model_name", "model.path", model_path),
    *irrelevant("model_type training_method", "Told the family."),
    to("epochs", "train.epochs", number),
    to("batch_size", "train.batch_size", number),
    to("gradient_accumulation_steps", "train.gradient_accumulation_steps", number),
    to("gradient_checkpointing", "train.gradient_checkpointing", _checkpointing),
    to("train_dtype", "train.precision", precision, "Its default is fp16."),
    several("ema", "train.ema_decay", _ema),
    *irrelevant("ema_decay ema_update_step_interval", "Written with `ema`."),
    several("timestep_distribution", "noise.timestep_sampling noise.shift", _timesteps),
    *irrelevant(
        "noising_weight noising_bias timestep_shift dynamic_timestep_shifting", "Written with the distribution."
    ),
    to("min_noising_strength", "noise.min_timestep", unless_off(lambda value, context: round(amount(value) * 1000))),
    to("max_noising_strength", "noise.max_timestep", lambda value, context: round(amount(value) * 1000)),
    to(
        "offset_noise_weight",
        "noise.offset",
        diffusion_only(unless_off(number), "We offset noise of diffusion families only."),
    ),
    no("generalized_offset_noise", "The offset is the same at all noise levels here."),
    to(
        "perturbation_noise_weight",
        "noise.ip_gamma",
        unless_off(number),
        "There the target is disturbed too.",
        "changed",
    ),
    to(
        "rescale_noise_scheduler_to_zero_terminal_snr",
        "noise.zero_terminal_snr",
        unless_off(lambda value, context: True),
    ),
    to("force_v_prediction", "noise.prediction", unless_off(lambda value, context: "v_prediction")),
    to("force_epsilon_prediction", "noise.prediction", unless_off(lambda value, context: "epsilon")),
    several("loss_weight_fn", "loss.min_snr_gamma loss.debiased", _weighting),
    *irrelevant("loss_weight_strength", "Read with `loss_weight_fn`."),
    *[
        several(key, "loss.type", _loss)
        for key in ("mse_strength", "mae_strength", "huber_strength", "log_cosh_strength")
    ],
    *irrelevant("huber_delta", "Written with `huber_strength`."),
    *irrelevant("vb_loss_strength", "Of other models."),
    *irrelevant("masked_training", "See the concepts."),
    to("unmasked_weight", "loss.mask_floor", _masked("unmasked_weight")),
    to("normalize_masked_area_loss", "loss.normalise_masks", _masked("normalize_masked_area_loss")),
    several(
        "unmasked_probability",
        "",
        lambda value, context: (
            refused("Masks hold in every step here.")
            if truth(context.get("masked_training")) and amount(value)
            else dropped("Without masks.")
        ),
        status="unsupported",
    ),
    no("masked_prior_preservation_weight", "`loss.mask_floor` weights what a mask leaves out."),
    no("custom_conditioning_image", "Inpainting is not trained here."),
    to("text_encoder_layer_skip", "text.clip_skip", unless_off(_skip)),
    no("text_encoder_2_layer_skip", "CLIP layers are left out for SD1.5 only."),
    no("text_encoder_3_layer_skip", "CLIP layers are left out for SD1.5 only."),
    no("text_encoder_4_layer_skip", "CLIP layers are left out for SD1.5 only."),
    to(
        "text_encoder_2_sequence_length",
        "text.max_length",
        lambda value, context: (
            int(amount(value)) if context.family == "flux1" and amount(value) > 77 else dropped("The family's own.")
        ),
    ),
    to(
        "text_encoder_sequence_length",
        "text.max_length",
        lambda value, context: (
            int(amount(value))
            if context.flow and context.family not in ("flux1", "sd3")
            else dropped("The family's own.")
        ),
    ),
    to("resolution", "bucket.resolution", lambda value, context: dropped("See the concepts.")),
    *irrelevant("aspect_ratio_bucketing", "See the concepts."),
    *irrelevant(
        "latent_caching clear_cache_before_training only_cache",
        "Latents are always cached here, under keys that notice every change.",
    ),
]

OUTPUT: list[Row] = [
    to("output_dtype", "export.dtype", precision, "Its default is fp32."),
    several(
        "output_model_format",
        "export.formats",
        lambda value, context: (
            Fate({"export.formats": ["kohya"]})
            if "KOHYA" in str(value) or "LEGACY" in str(value)
            else dropped("Ours are `export.formats`.")
        ),
    ),
    *irrelevant("output_model_destination", "The name of the project."),
    several("save_every", "save.every save.every_epochs", _every("save.every", "save_every_unit")),
    *irrelevant(
        "save_every_unit save_skip_first save_filename_prefix backup_after_unit backup_before_save",
        "Written with the number, or of its program.",
    ),
    several("backup_after", "train.checkpoint_every", _backup),
    *irrelevant("rolling_backup", "The last `train.keep_last` states are kept."),
    to(
        "rolling_backup_count",
        "train.keep_last",
        lambda value, context: int(amount(value)) if truth(context.get("rolling_backup")) else dropped("Off there."),
    ),
    several("sample_after", "sample.every sample.every_epochs", _samples_every),
    *irrelevant(
        "sample_after_unit sample_skip_first sample_image_format sample_video_format sample_audio_format", _PROGRAM
    ),
    *irrelevant("samples_to_tensorboard non_ema_sampling sample_definition_file_name concept_file_name", _PROGRAM),
    to("(samples).prompts", "sample.prompts"),
    to("(samples).negative_prompt", "sample.negative_prompt", text),
    to("(samples).width", "sample.width", number),
    to("(samples).height", "sample.height", number),
    to(
        "(samples).seed",
        "sample.seed",
        lambda value, context: int(amount(value)) if amount(value) >= 0 else dropped("Drawn anew each time there."),
    ),
    to("(samples).diffusion_steps", "sample.steps", number),
    to("(samples).cfg_scale", "sample.guidance", number),
    to(
        "(samples).noise_scheduler",
        "sample.sampler",
        diffusion_only(choice("sample.sampler", _SAMPLERS), "The base's own."),
    ),
    to("tensorboard", "logging.tensorboard", lambda value, context: truth(value)),
    *irrelevant("tensorboard_expose tensorboard_port tensorboard_always_on", _PROGRAM),
    several("validation", "", lambda value, context: dropped("VALIDATION concepts are always measured here.")),
    several(
        "validate_after",
        "train.evaluate_every",
        lambda value, context: (
            Fate({"train.evaluate_every": int(amount(value))})
            if truth(context.get("validation")) and context.get("validate_after_unit") == "STEP"
            else dropped("A tenth of the run, or `train.evaluate_every`.")
        ),
    ),
    *irrelevant("validate_after_unit", "Read with `validate_after`."),
    to("seed", "train.seed", unless_off(number)),
    *irrelevant("dataloader_threads", HARDWARE),
    *irrelevant(
        "multi_gpu device_indexes gradient_reduce_precision fused_gradient_reduce async_gradient_reduce", HARDWARE
    ),
    *irrelevant(
        "async_gradient_reduce_buffer train_device temp_device fallback_train_dtype enable_autocast_cache", HARDWARE
    ),
    *irrelevant("async_offloading compile attention_mechanism weight_dtype enable_async_offloading", HARDWARE),
    *irrelevant("enable_activation_offloading layer_offload_fraction", HARDWARE),
    no("force_circular_padding", "Convolutions keep the base's padding."),
    *irrelevant(
        "workspace_dir cache_dir debug_mode debug_dir huggingface_cache_dir offline_mode prevent_overwrites", _PROGRAM
    ),
    *irrelevant(
        "include_train_config continue_last_backup frames __version concepts samples optimizer_defaults", _PROGRAM
    ),
    several(
        "additional_embeddings",
        "",
        unless_off(lambda value, context: refused("Embeddings are not trained here: use `caption.trigger_word`.")),
        status="unsupported",
    ),
    *irrelevant(
        "embedding embedding.* embeddings embedding_learning_rate preserve_embedding_norm embedding_weight_dtype",
        "Embeddings are not trained here.",
    ),
    *irrelevant("bundle_additional_embeddings", "Embeddings are not trained here."),
    *secret("secrets secrets.* cloud cloud.*"),
]


def _warmup(value: JSON, context: Context) -> JSON:
    """Up to 1 it is a share of the run, above that it counts steps."""
    found = amount(value)
    if found == 1:
        return changed({"schedule.warmup_ratio": 0.99}, "1 is the whole run there: it never reaches the rate.")
    return warmup(value, context)


def _trains_encoders(context: Context) -> bool:
    return context.family in _ENCODERS


DEFAULTS: list[Default] = [
    Default("peft_type", "LORA"),
    Default("lora_rank", 16),
    Default("lora_alpha", 1.0),
    Default("layer_filter_preset", "full"),
    Default("optimizer.optimizer", "ADAMW"),
    Default("learning_rate", 3e-6),
    Default("learning_rate_warmup_steps", 200.0),
    Default("epochs", 100),
    Default("train_dtype", "FLOAT_16"),
    Default("output_dtype", "FLOAT_32"),
    Default("timestep_distribution", "UNIFORM"),
    Default("unet.gradient_checkpointing", True, lambda context: not context.flow),
    Default("transformer.gradient_checkpointing", True, lambda context: context.flow),
    Default("text_encoder.train", True, _trains_encoders),
    Default("unmasked_weight", 0.1),
    Default("unmasked_probability", 0.1),
    Default("tensorboard", True),
    Default("sample_after", 10),
]

TABLE = Table("Training", [*TRAINING, *ADAPTER, *OPTIMIZER, *PARTS, *OUTPUT], DEFAULTS)
