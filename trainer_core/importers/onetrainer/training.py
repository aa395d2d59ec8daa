"""OneTrainer's keys of training and of what comes out."""

from __future__ import annotations

from collections.abc import Mapping

from trainer_core.importers.core.convert import (
    amount,
    choice,
    diffusion_only,
    model_path,
    number,
    on,
    precision,
    text,
    truth,
    unless_off,
)
from trainer_core.importers.core.key_table import (
    Context,
    Conversion,
    Convert,
    Default,
    Row,
    Table,
    changed,
    dropped,
    irrelevant,
    memory,
    refused,
    secret,
    several,
    to,
)
from trainer_core.importers.core.key_table import unsupported as no
from trainer_core.importers.core.memory_settings import base_rows, swap_rows, swapped_share
from trainer_core.importers.onetrainer.parts import ADAPTER, ENCODERS, HARDWARE, OPTIMIZER, PARTS, checkpointing
from trainer_core.types import JSON

_PROGRAM = "It matters in the other program only."

_SAMPLERS: Mapping[str, str] = {
    "ddim": "ddim",
    "euler": "euler",
    "euler_karras": "euler_karras",
    "euler_a": "euler_a",
    "dpmpp": "dpmpp_2m",
    "dpmpp_karras": "dpmpp_2m_karras",
    "dpmpp_sde": "dpmpp_2m_sde",
    "dpmpp_sde_karras": "dpmpp_2m_sde_karras",
    "unipc": "unipc",
    "unipc_karras": "unipc",
}


def _timesteps(value: JSON, context: Context) -> JSON:
    weight, bias = amount(context.get("noising_weight", 0)), amount(context.get("noising_bias", 0))
    shift: dict[str, JSON] = {}
    if context.flow:
        dynamic = truth(context.get("dynamic_timestep_shifting"))
        shift["noise.shift"] = "resolution" if dynamic else number(context.get("timestep_shift", 1.0))
    kind = str(value)
    if kind == "LOGIT_NORMAL":
        both: dict[str, JSON] = {"noise.logit_mean": bias, "noise.logit_std": weight + 1.0}
        return Conversion(
            {"noise.timestep_sampling": "logit_normal", **both, **shift},
            note="The mean is its bias, the deviation is its weight plus 1.",
        )
    if kind == "HEAVY_TAIL":
        return Conversion({"noise.timestep_sampling": "mode", "noise.mode_scale": weight, **shift})
    if kind in ("UNIFORM", "COS_MAP"):
        return Conversion({"noise.timestep_sampling": "uniform" if kind == "UNIFORM" else "cosmap", **shift})
    note = f"We have no {kind}: uniform instead; `logit_normal` can be moved to where you want it."
    return changed({"noise.timestep_sampling": "uniform", **shift}, note)


def _weighting(value: JSON, context: Context) -> JSON:
    kind, strength = str(value), number(context.get("loss_weight_strength", 5.0))
    if kind == "CONSTANT" or (context.flow and kind != "SIGMA"):
        return dropped("All noise levels have the same weight.")
    if kind == "MIN_SNR_GAMMA":
        return Conversion({"loss.min_snr_gamma": strength})
    if kind == "DEBIASED_ESTIMATION":
        return Conversion({"loss.debiased": True})
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
        return changed(settings, "We have no log-cosh loss. Pseudo-Huber is similar.")
    if strong[used[0]] != 1:
        return changed(settings, f"Its strength {strong[used[0]]:g} scales the loss; ours is 1.")
    return Conversion(settings)


def _every(setting: str, unit_key: str) -> Convert:
    """Write `N` with its unit: steps and epochs have settings of ours, times have not."""

    def convert(value: JSON, context: Context) -> JSON:
        unit = str(context.get(unit_key, "NEVER"))
        if unit == "NEVER" or not amount(value):
            return dropped("It is off.")
        if unit == "EPOCH":
            return Conversion({f"{setting}_epochs": number(value)})
        if unit == "STEP":
            return Conversion({setting: int(amount(value))})
        return refused(
            f"Count in steps or epochs: `{setting}` or `{setting}_epochs`; {value} {unit.lower()} cannot be written."
        )

    return convert


def _samples_every(value: JSON, context: Context) -> JSON:
    if not context.get("(samples).prompts"):
        return dropped("No samples.")
    return _every("sample.every", "sample_after_unit")(value, context)


def _backup(value: JSON, context: Context) -> JSON:
    if str(context.get("backup_after_unit", "MINUTE")) == "STEP":
        return Conversion({"train.checkpoint_every": int(amount(value))})
    return dropped("States are saved every `train.checkpoint_every` steps.")


def _masked(name: str) -> Convert:
    def convert(value: JSON, context: Context) -> JSON:
        if not truth(context.get("masked_training")):
            return dropped("No masks are used.")
        return truth(value) if isinstance(value, bool) else number(value)

    return convert


def _ema(value: JSON, context: Context) -> JSON:
    if str(value) == "OFF":
        return dropped("It is off in the other tool.")
    decay, step = amount(context.get("ema_decay", 0.999)), amount(context.get("ema_update_step_interval", 5)) or 1
    if step == 1:
        return Conversion({"train.ema_decay": decay})
    note = f"It averages every {step:g} steps with {decay:g}; ours every step, with its {step:g}th root."
    return changed({"train.ema_decay": round(decay ** (1 / step), 6)}, note)


def _skip(value: JSON, context: Context) -> JSON:
    if context.family != "sd15":
        return dropped("Here it is read for SD1.5 only.")
    return int(amount(value))


TRAINING: list[Row] = [
    to("base_model_name", "model.path", model_path),
    *irrelevant("model_type training_method", "It is read to detect the family."),
    to("epochs", "train.epochs", number),
    to("batch_size", "train.batch_size", number),
    to("gradient_accumulation_steps", "train.gradient_accumulation_steps", number),
    to("gradient_checkpointing", "train.gradient_checkpointing", checkpointing),
    to("train_dtype", "train.precision", precision, "Its default is fp16."),
    several("ema", "train.ema_decay", _ema),
    *irrelevant("ema_decay ema_update_step_interval", "See `ema`."),
    several("timestep_distribution", "noise.timestep_sampling noise.shift", _timesteps),
    *irrelevant(
        "noising_weight noising_bias timestep_shift dynamic_timestep_shifting", "See the distribution of timesteps."
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
        "There the target is perturbed too; here only the input is.",
        "changed",
    ),
    to(
        "rescale_noise_scheduler_to_zero_terminal_snr",
        "noise.zero_terminal_snr",
        on,
    ),
    to("force_v_prediction", "noise.prediction", unless_off(lambda value, context: "v_prediction")),
    to("force_epsilon_prediction", "noise.prediction", unless_off(lambda value, context: "epsilon")),
    several("loss_weight_fn", "loss.min_snr_gamma loss.debiased", _weighting),
    *irrelevant("loss_weight_strength", "See `loss_weight_fn`."),
    *[
        several(key, "loss.type", _loss)
        for key in ("mse_strength", "mae_strength", "huber_strength", "log_cosh_strength")
    ],
    *irrelevant("huber_delta", "See `huber_strength`."),
    *irrelevant("vb_loss_strength", "It is for other models."),
    *irrelevant("masked_training", "See the keys of the concepts."),
    to("unmasked_weight", "loss.mask_floor", _masked("unmasked_weight")),
    to("normalize_masked_area_loss", "loss.normalise_masks", _masked("normalize_masked_area_loss")),
    several(
        "unmasked_probability",
        "",
        lambda value, context: (
            refused("Masks are used at every step here.")
            if truth(context.get("masked_training")) and amount(value)
            else dropped("No masks are used.")
        ),
        status="unsupported",
    ),
    no("masked_prior_preservation_weight", "Use `loss.mask_floor`: it weights the part that a mask leaves out."),
    no("custom_conditioning_image", "Inpainting is not trained here."),
    to("text_encoder_layer_skip", "text.clip_skip", unless_off(_skip)),
    no("text_encoder_2_layer_skip", "CLIP layers are left out for SD1.5 only."),
    no("text_encoder_3_layer_skip", "CLIP layers are left out for SD1.5 only."),
    no("text_encoder_4_layer_skip", "CLIP layers are left out for SD1.5 only."),
    to(
        "text_encoder_2_sequence_length",
        "text.max_length",
        lambda value, context: (
            int(amount(value))
            if context.family == "flux1" and amount(value) > 77
            else dropped("It is the family's own value.")
        ),
    ),
    to(
        "text_encoder_sequence_length",
        "text.max_length",
        lambda value, context: (
            int(amount(value))
            if context.flow and context.family not in ("flux1", "sd3")
            else dropped("It is the family's own value.")
        ),
    ),
    to("resolution", "bucket.resolution", lambda value, context: dropped("See the keys of the concepts.")),
    *irrelevant("aspect_ratio_bucketing", "See the keys of the concepts."),
    *irrelevant(
        "latent_caching clear_cache_before_training only_cache",
        "Latents are always cached here, and every change is noticed.",
    ),
]

OUTPUT: list[Row] = [
    to("output_dtype", "export.dtype", precision, "Its default is fp32."),
    several(
        "output_model_format",
        "export.formats",
        lambda value, context: (
            Conversion({"export.formats": ["kohya"]})
            if "KOHYA" in str(value) or "LEGACY" in str(value)
            else dropped("Formats of files are chosen by `export.formats` here.")
        ),
    ),
    *irrelevant("output_model_destination", "The name of the project."),
    several("save_every", "save.every save.every_epochs", _every("save.every", "save_every_unit")),
    *irrelevant(
        "save_every_unit save_skip_first save_filename_prefix backup_after_unit backup_before_save",
        "See the number that it belongs to, or it matters in the other program only.",
    ),
    several("backup_after", "train.checkpoint_every", _backup),
    *irrelevant("rolling_backup", "The last `train.keep_last` states are kept."),
    to(
        "rolling_backup_count",
        "train.keep_last",
        lambda value, context: (
            int(amount(value)) if truth(context.get("rolling_backup")) else dropped("It is off in the other tool.")
        ),
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
        lambda value, context: (
            int(amount(value)) if amount(value) >= 0 else dropped("The other tool draws a new seed each time.")
        ),
    ),
    to("(samples).diffusion_steps", "sample.steps", number),
    to("(samples).cfg_scale", "sample.guidance", number),
    to(
        "(samples).noise_scheduler",
        "sample.sampler",
        diffusion_only(choice("sample.sampler", _SAMPLERS), "It is the base's own value."),
    ),
    to("tensorboard", "logging.tensorboard", lambda value, context: truth(value)),
    *irrelevant("tensorboard_expose tensorboard_port tensorboard_always_on", _PROGRAM),
    several("validation", "", lambda value, context: dropped("VALIDATION concepts are always measured here.")),
    several(
        "validate_after",
        "train.evaluate_every",
        lambda value, context: (
            Conversion({"train.evaluate_every": int(amount(value))})
            if truth(context.get("validation")) and context.get("validate_after_unit") == "STEP"
            else dropped("The loss is measured every tenth of the run, or every `train.evaluate_every` steps.")
        ),
    ),
    *irrelevant("validate_after_unit", "See `validate_after`."),
    to("seed", "train.seed", unless_off(number)),
    *irrelevant("dataloader_threads", HARDWARE),
    *irrelevant(
        "multi_gpu device_indexes gradient_reduce_precision fused_gradient_reduce async_gradient_reduce", HARDWARE
    ),
    *irrelevant(
        "async_gradient_reduce_buffer train_device temp_device fallback_train_dtype enable_autocast_cache", HARDWARE
    ),
    *base_rows("weight_dtype"),
    *swap_rows("layer_offload_fraction", swapped_share),
    *memory("compile enable_activation_offloading"),
    *irrelevant("async_offloading enable_async_offloading", "It belongs to offloading."),
    *irrelevant("attention_mechanism", HARDWARE),
    no("force_circular_padding", "Convolutions always keep the padding of the base."),
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


def _trains_encoders(context: Context) -> bool:
    return context.family in ENCODERS


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
