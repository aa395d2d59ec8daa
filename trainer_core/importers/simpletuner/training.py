"""SimpleTuner's options of training."""

from __future__ import annotations

from trainer_core.importers.core.components import text_encoder_rows, vae_row
from trainer_core.importers.core.convert import (
    amount,
    choice,
    diffusion_only,
    flow_only,
    model_path,
    number,
    on,
    precision,
    shift_sampling,
    text,
    truth,
    unless_off,
)
from trainer_core.importers.core.key_table import (
    Context,
    Conversion,
    Default,
    Row,
    Table,
    changed,
    dropped,
    irrelevant,
    several,
    to,
)
from trainer_core.importers.core.key_table import unsupported as no
from trainer_core.importers.simpletuner.adapter import ADAPTER, OPTIMIZER, lycoris
from trainer_core.importers.simpletuner.other import OTHER, OUTPUT, PROGRAM
from trainer_core.types import JSON


def _length(value: JSON, context: Context) -> JSON:
    steps, epochs = amount(context.get("max_train_steps")), amount(context.get("num_train_epochs", 1))
    if context.key == "max_train_steps":
        return int(steps) if steps else dropped("It is 0, so `num_train_epochs` decides.")
    return dropped("`max_train_steps` is used instead of it.") if steps else number(epochs)


def _sampling(value: JSON, context: Context) -> JSON:
    """Sigmoid of a normal by default, then the static shift."""
    scale = amount(context.get("flow_sigmoid_scale", 1.0))
    uniform = truth(context.get("flow_use_uniform_schedule"))
    found = shift_sampling("uniform" if uniform else "logit_normal", scale, amount(value) or 1)
    if truth(context.get("flow_schedule_auto_shift")):
        kind = (
            {"noise.timestep_sampling": "uniform"}
            if uniform
            else {"noise.timestep_sampling": "logit_normal", "noise.logit_std": scale}
        )
        return Conversion({**kind, "noise.shift": "resolution"})
    if truth(context.get("flow_use_beta_schedule")):
        return changed(found, "We have no beta distribution. Logit-normal is used instead.")
    return Conversion(found)


def _offset(value: JSON, context: Context) -> JSON:
    if not truth(context.get("offset_noise")):
        return dropped("`offset_noise` is off.")
    chance = amount(context.get("noise_offset_probability", 0.25))
    if chance < 1:
        return changed(
            {"noise.offset": number(value)}, f"It offsets {chance:g} of the draws; ours all of them: lower it."
        )
    return number(value)


def _ema(value: JSON, context: Context) -> JSON:
    return (
        Conversion({"train.ema_decay": number(context.get("ema_decay", 0.995))})
        if truth(value)
        else dropped("It is off in the other tool.")
    )


TRAINING: list[Row] = [
    to("pretrained_model_name_or_path", "model.path", model_path),
    to("revision", "model.revision", unless_off(text)),
    *irrelevant("model_family model_flavour model_type controlnet control variant", "It is read to detect the family."),
    *[
        no(key, "Put it into the folder of the base: a folder in diffusers' format has all parts.")
        for key in (
            "pretrained_transformer_model_name_or_path",
            "pretrained_unet_model_name_or_path",
        )
    ],
    vae_row("pretrained_vae_model_name_or_path"),
    *text_encoder_rows(
        (
            "pretrained_t5_model_name_or_path",
            "pretrained_gemma_model_name_or_path",
            "qwen_text_encoder_model_name_or_path",
        )
    ),
    *irrelevant("pretrained_transformer_subfolder pretrained_unet_subfolder trust_remote_code", PROGRAM),
    to("max_train_steps", "train.steps", _length),
    to("num_train_epochs", "train.epochs", _length),
    *irrelevant("strict_epoch_limit", "The run ends where `train` says."),
    to("train_batch_size", "train.batch_size", number),
    to("gradient_accumulation_steps", "train.gradient_accumulation_steps", number),
    to("gradient_checkpointing", "train.gradient_checkpointing", lambda value, context: truth(value)),
    to("seed", "train.seed", number),
    to("mixed_precision", "train.precision", precision),
    several("use_ema", "train.ema_decay", _ema),
    *irrelevant(
        "ema_decay ema_device ema_cpu_only ema_foreach_disable ema_validation",
        "See `use_ema`; the others are a matter of hardware.",
    ),
    no("ema_update_interval", "Here the average is updated at every step.", (None, 1)),
    no("ema_warmup_steps", "Here the decay of the average always rises from the start of the run."),
    several("flow_schedule_shift", "noise.timestep_sampling noise.shift", flow_only(_sampling)),
    *irrelevant(
        "flow_sigmoid_scale flow_use_uniform_schedule flow_schedule_auto_shift flow_use_beta_schedule",
        "See `flow_schedule_shift`.",
    ),
    *irrelevant("flow_beta_schedule_alpha flow_beta_schedule_beta", "See `flow_schedule_shift`."),
    to("flux_guidance_value", "noise.guidance", number),
    *irrelevant("flux_guidance_mode flux_guidance_min flux_guidance_max", "Guidance is constant (`noise.guidance`)."),
    to("noise_offset", "noise.offset", diffusion_only(_offset, "Not used with flow matching.")),
    *irrelevant("offset_noise noise_offset_probability", "See `noise_offset`."),
    to("input_perturbation", "noise.ip_gamma", unless_off(number)),
    no("input_perturbation_steps", "Here it is the same for the whole run."),
    to("rescale_betas_zero_snr", "noise.zero_terminal_snr", on),
    to(
        "prediction_type",
        "noise.prediction",
        diffusion_only(
            choice("noise.prediction", {"epsilon": "epsilon", "v_prediction": "v_prediction"}),
            "It is the family's own value.",
        ),
    ),
    to("snr_gamma", "loss.min_snr_gamma", diffusion_only(unless_off(number), "Not used with flow matching.")),
    to("use_soft_min_snr", "loss.soft_min_snr", diffusion_only(on, "Not used with flow matching.")),
    to(
        "loss_type",
        "loss.type",
        choice("loss.type", {"l2": "l2", "l1": "l1", "huber": "huber", "smooth_l1": "smooth_l1"}),
    ),
    to("huber_schedule", "loss.huber_schedule", text),
    to("huber_c", "loss.huber_c", number),
    no("masked_loss_probability", "Masks are used at every step here.", (None, 1, 1.0)),
    to("caption_dropout_probability", "caption.dropout", number),
    to("tokenizer_max_length", "text.max_length", unless_off(number)),
    *irrelevant("t5_padding", "It is as in diffusers' pipeline."),
    *irrelevant(
        "resolution resolution_type caption_strategy instance_prompt prepend_instance_prompt",
        "See the keys of the backends.",
    ),
    *irrelevant("data_backend_config", "Its keys are reported one by one."),
    to("aspect_bucket_alignment", "bucket.step", number),
    *irrelevant("minimum_image_size aspect_bucket_rounding", "See the keys of the backends."),
    to("vae_batch_size", "latents.batch_size", number),
    to(
        "text_encoder_batch_size",
        "text.batch_size",
        lambda value, context: number(value) if amount(value) > 1 else dropped("The hardware profile chooses it."),
    ),
    to("vae_dtype", "latents.precision", precision),
    no("timestep_bias_strategy", "Move noise levels with `noise.min_timestep` and `max_timestep`.", (None, "none", "")),
    *irrelevant(
        "timestep_bias_begin timestep_bias_end timestep_bias_multiplier timestep_bias_portion",
        "See the strategy that it belongs to.",
    ),
]

DEFAULTS: list[Default] = [
    Default("lora_type", "standard"),
    Default("lora_rank", 16),
    Default("lora_alpha", lambda context: context.get("lora_rank", 16)),
    Default("lora_dropout", 0.1),
    Default(
        "(adapted modules)", "attention", lambda context: not lycoris(context) and not context.get("flux_lora_target")
    ),
    Default("learning_rate", 4e-7),
    Default("optimizer", "adamw_bf16"),
    Default("lr_scheduler", "constant_with_warmup"),
    Default("lr_end", 4e-7),
    Default("lr_power", 0.8),
    Default("max_grad_norm", 2.0),
    Default("num_train_epochs", 1),
    Default("train_batch_size", 4),
    Default("gradient_checkpointing", True),
    Default("mixed_precision", "bf16"),
    Default("flow_schedule_shift", 3.0),
    Default("noise_offset", 0.1, lambda context: bool(context.get("offset_noise"))),
    Default("caption_dropout_probability", 0.1),
    Default("checkpoint_step_interval", 500),
    Default("checkpoints_total_limit", 5),
    Default("validation_negative_prompt", "blurry, cropped, ugly"),
    Default("validation_step_interval", 100),
    Default("validation_guidance", 7.5),
    Default("validation_num_inference_steps", 30),
]

TABLE = Table("Training", [*ADAPTER, *OPTIMIZER, *TRAINING, *OUTPUT, *OTHER], DEFAULTS)
