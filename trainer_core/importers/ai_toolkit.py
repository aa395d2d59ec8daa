"""ostris' ai-toolkit: YAML or JSON with `job: extension` and `config.process`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from trainer_core.importers import optimizers, schedules
from trainer_core.importers.convert import (
    amount,
    choice,
    diffusion_only,
    flow_only,
    model_path,
    number,
    path,
    paths,
    precision,
    text,
    truth,
    unless_off,
)
from trainer_core.importers.kohya_network import ENCODERS
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
from trainer_core.importers.source import Loaded, Section, Source, Told, Tool, failure, flat
from trainer_core.types import JSON

HARDWARE = "Hardware: the profile decides (`hardware.profile`)."
CACHED = "Latents and embeddings are always cached here, under keys that notice every change."
ARCHITECTURES: Mapping[str, str] = {
    "sd1": "sd15",
    "sd15": "sd15",
    "sdxl": "sdxl",
    "sd3": "sd3",
    "flux": "flux1",
    "flux_kontext": "flux1",
    "flux2": "flux2",
    "flux2_klein_4b": "flux2",
    "flux2_klein_9b": "flux2",
    "qwen_image": "qwen_image",
    "qwen_image_edit": "qwen_image_edit",
    "qwen_image_edit_plus": "qwen_image_edit",
    "chroma": "chroma",
    "zimage": "z_image",
    "lumina2": "lumina2",
}
_FLAGS: Mapping[str, str] = {"is_xl": "sdxl", "is_v3": "sd3", "is_flux": "flux1", "is_lumina2": "lumina2"}
_SIZES = ("network.linear", "network.rank")


def _rank(value: JSON, context: Context) -> JSON:
    if context.key == "network.linear" and context.get("network.rank"):
        return dropped("`rank` goes before it.")
    if str(context.get("network.type")) == "lokr" and truth(context.get("network.lokr_full_rank", True)):
        return Fate({"adapter_options.full_matrix": True}, note="`lokr_full_rank` makes the rank count for nothing.")
    return number(value)


def _alpha(value: JSON, context: Context) -> JSON:
    """Write alpha; for transformers the tool sets it to the rank, whatever the config says."""
    if str(context.get("network.type")) == "lokr" and truth(context.get("network.lokr_full_rank", True)):
        return dropped("Whole matrices are not scaled.")
    rank = context.get("network.rank") or context.get("network.linear", 4)
    if context.key == "network.alpha" and context.get("network.linear_alpha") is not None:
        return dropped("`linear_alpha` goes before it.")
    if context.flow and amount(value) != amount(rank):
        note = f"It is inert there: ai-toolkit takes the rank ({rank}) as alpha for transformers, so we do."
        return changed({"adapter.alpha": rank}, note)
    return number(value)


def _conv(value: JSON, context: Context) -> JSON:
    if context.flow or not amount(value):
        return dropped("No convolutions are adapted.")
    return Fate({"adapter.type": "locon", "adapter.conv_rank": int(amount(value))})


def _conv_alpha(value: JSON, context: Context) -> JSON:
    return dropped("No convolutions are adapted.") if context.flow else number(value)


def _only(value: JSON, context: Context) -> JSON:
    """Write lists of parts of module names as one regex."""
    keep = context.get("network.network_kwargs.only_if_contains") or []
    leave = context.get("network.network_kwargs.ignore_if_contains") or []
    keep, leave = ([one] if isinstance(one, str) else list(one) for one in (keep, leave))
    parts = [re.escape(part.removeprefix("transformer.")) for part in keep]
    never = "".join(f"(?!.*{re.escape(part.removeprefix('transformer.'))})" for part in leave)
    inner = f".*({'|'.join(parts)}).*" if parts else ".*"
    note = "A regex of the same parts; check the names, which are diffusers' here."
    return changed({"adapter.targets": never + inner}, note)


def _encoders(value: JSON, context: Context) -> JSON:
    chosen = ENCODERS.get(context.family, ())
    return list(chosen) if chosen else refused("Text encoders of this family are not trained here.")


def _timesteps(value: JSON, context: Context) -> JSON:
    kind = str(value)
    if truth(context.get("train.linear_timesteps")) or truth(context.get("train.linear_timesteps2")):
        kind = "weighted"
    uniform: Mapping[str, JSON] = {"noise.timestep_sampling": "uniform", "noise.shift": 1}
    shifted: Mapping[str, JSON] = {"noise.timestep_sampling": "uniform", "noise.shift": "resolution"}
    known: Mapping[str, Fate] = {
        "sigmoid": Fate({"noise.timestep_sampling": "sigmoid"}),
        "linear": Fate(uniform),
        "weighted": changed(uniform, "It also weights the loss by noise level; ours weights all alike."),
        "shift": Fate(shifted),
        "flux_shift": Fate(shifted),
        "lumina2_shift": Fate(shifted),
        "lognorm_blend": changed({"noise.timestep_sampling": "sigmoid"}, "It blends log-normal with uniform steps."),
    }
    return known.get(kind) or refused("It trains for few-step sampling: choose one of `noise.timestep_sampling`.")


def _balance(value: JSON, context: Context) -> JSON:
    if str(value) == "balanced":
        return dropped("All noise levels as `timestep_type` says.")
    return refused("Move the noise levels with `noise.logit_mean`: above 0 trains content, below 0 style.")


def _lr(value: JSON, context: Context) -> JSON:
    adaptive = str(context.get("train.optimizer", "")).lower().startswith(("prodigy", "dadapt", "automagic"))
    if adaptive and amount(value) < 0.1:
        return changed({"optimizer.lr": 1.0}, "The optimizer finds its own rate; 1 is what it starts from.")
    return number(value)


def _optimizer(value: JSON, context: Context) -> JSON:
    given = {key.rpartition(".")[2]: one for key, one in context.values.items() if "optimizer_params." in key}
    return optimizers.chosen(optimizers.AI_TOOLKIT, value, given)


def _ema(value: JSON, context: Context) -> JSON:
    if not truth(value):
        return dropped("Off there.")
    return Fate({"train.ema_decay": number(context.get("train.ema_config.ema_decay", 0.999))})


def _accumulation(value: JSON, context: Context) -> JSON:
    """Of the two keys the old one counts each forward pass as a step."""
    count = int(amount(value)) or 1
    if context.key == "train.gradient_accumulation_steps" and count > 1:
        steps = int(amount(context.get("train.steps", 1000)))
        note = f"It counts each pass as a step, so {steps} of its steps are {max(1, steps // count)} of ours."
        both = {"train.gradient_accumulation_steps": count, "train.steps": max(1, steps // count)}
        return changed(both, note)
    return count if count > 1 else dropped("Off there.")


def _steps(value: JSON, context: Context) -> JSON:
    if amount(context.get("train.gradient_accumulation_steps")) > 1:
        return dropped("Written with `gradient_accumulation_steps`.")
    return int(amount(value))


def _preservation(value: JSON, context: Context) -> JSON:
    if not truth(value):
        return dropped("Off there.")
    found: dict[str, JSON] = {
        "loss.preservation_weight": number(context.get("train.diff_output_preservation_multiplier", 1.0)),
        "loss.preservation_class": str(context.get("train.diff_output_preservation_class", "")),
    }
    return Fate(found)


def _seed_walk(value: JSON, context: Context) -> JSON:
    return (
        dropped("Prompt i takes seed + i here too.") if truth(value) else changed({}, "Prompt i takes seed + i here.")
    )


def _prompts(value: JSON, context: Context) -> JSON:
    plain = [one if isinstance(one, str) else str(one.get("prompt", "")) for one in value or []]
    plain = [one for one in plain if one]
    more = sorted({key for one in value or [] if isinstance(one, Mapping) for key in one} - {"prompt"})
    controls = [_controls(one, context) for one in value or [] if isinstance(one, Mapping)]
    found: dict[str, JSON] = {"sample.prompts": plain}
    if any(controls) and len(controls) == len(plain):
        found["sample.control_paths"] = [one[0] if len(one) == 1 else one for one in controls]
    rest = [key for key in more if not key.startswith("ctrl_img")]
    if rest:
        note = f"What differs from prompt to prompt ({', '.join(rest)}) belongs into a `sample.prompt_file`."
        return changed(found, note)
    return Fate(found) if plain else dropped("No prompts.")


def _controls(one: Mapping[str, JSON], context: Context) -> list[str]:
    keys = [key for key in ("ctrl_img", "ctrl_img_1", "ctrl_img_2", "ctrl_img_3") if one.get(key)]
    return [str(path(one[key], context)) for key in keys]


def _trigger(value: JSON, context: Context) -> JSON:
    return str(value)


_ONLY_SLIDERS = "Of another kind of training."
_WAYS = "We have nothing like it: see `loss` and `noise` for what there is."

NETWORK: list[Row] = [
    to(
        "network.type",
        "adapter.type",
        choice("adapter.type", {"lora": "lora", "locon": "locon", "lokr": "lokr", "dora": "dora"}),
    ),
    several(
        "network.linear",
        "adapter.rank",
        lambda value, context: _fate("adapter.rank", _rank(value, context)),
        "Its default is 4.",
    ),
    to("network.rank", "adapter.rank", _rank),
    several(
        "network.linear_alpha", "adapter.alpha", lambda value, context: _fate("adapter.alpha", _alpha(value, context))
    ),
    to("network.alpha", "adapter.alpha", _alpha, "Its default is 1."),
    several("network.conv", "adapter.type adapter.conv_rank", _conv),
    to("network.conv_alpha", "adapter.conv_alpha", _conv_alpha),
    to("network.dropout", "adapter.dropout", unless_off(number)),
    to("network.lokr_factor", "adapter_options.factor", number),
    to("network.pretrained_lora_path", "adapter.init_from", unless_off(path)),
    several("network.network_kwargs.only_if_contains", "adapter.targets", unless_off(_only), status="changed"),
    several("network.network_kwargs.ignore_if_contains", "adapter.targets", unless_off(_only), status="changed"),
    several(
        "(adapted modules)",
        "adapter.targets",
        lambda value, context: Fate({"adapter.targets": value}),
        "It adapts every Linear of the blocks.",
    ),
    *irrelevant("network.lokr_full_rank", "Written with the rank."),
    *irrelevant("network.transformer_only", "Only blocks are adapted here."),
    *irrelevant("network.old_lokr_format network.split_multistage_loras network.layer_offloading", "Of its program."),
    no("network.all_layers", "Norms: `adapter.train_norm`."),
    no("network.lorm.*", "LoRM extracts; train a LoRA here."),
]

TRAIN: list[Row] = [
    to("train.steps", "train.steps", _steps),
    to("train.batch_size", "train.batch_size", number),
    to("train.lr", "optimizer.lr", _lr),
    to("train.unet_lr", "optimizer.lr", unless_off(_lr)),
    to(
        "train.text_encoder_lr",
        "optimizer.text_encoder_lr",
        lambda value, context: (
            number(value) if truth(context.get("train.train_text_encoder")) else dropped("No text encoder is trained.")
        ),
    ),
    several("train.optimizer", "optimizer.name optimizer.eps", _optimizer),
    several(
        "train.optimizer_params.*",
        "optimizer.weight_decay optimizer.betas optimizer.eps optimizer.args",
        optimizers.arguments,
    ),
    several("train.lr_scheduler", "schedule.name", lambda value, context: schedules.named(schedules.AI_TOOLKIT, value)),
    to("train.lr_scheduler_params.num_warmup_steps", "schedule.warmup_steps", number),
    no("train.lr_scheduler_params.*", "Arguments of torch's class: see `schedule`."),
    several(
        "train.gradient_accumulation_steps",
        "train.gradient_accumulation_steps train.steps",
        lambda value, context: _fate("train.gradient_accumulation_steps", _accumulation(value, context)),
    ),
    to("train.gradient_accumulation", "train.gradient_accumulation_steps", _accumulation),
    to("train.gradient_checkpointing", "train.gradient_checkpointing", lambda value, context: truth(value)),
    to("train.max_grad_norm", "optimizer.max_grad_norm", number),
    to("train.dtype", "train.precision", precision, "Its default is fp32."),
    several("train.ema_config.use_ema", "train.ema_decay", _ema),
    *irrelevant("train.ema_config.ema_decay", "Written with `use_ema`."),
    *irrelevant("train.ema_config.*", "Of its program."),
    no("train.train_unet", "The denoiser is always trained here.", (None, True)),
    to("train.train_text_encoder", "adapter.text_encoders", unless_off(_encoders)),
    to("train.cache_text_embeddings", "text.cache", unless_off(lambda value, context: "always")),
    *irrelevant("train.unload_text_encoder", "Encoders are not in memory while training here."),
    several(
        "train.timestep_type",
        "noise.timestep_sampling noise.shift",
        flow_only(_timesteps, "Diffusion families draw uniformly, in both."),
    ),
    *irrelevant("train.linear_timesteps train.linear_timesteps2", "Read with `timestep_type`."),
    several("train.content_or_style", "", _balance, status="unsupported"),
    several("train.content_or_style_reg", "", _balance, status="unsupported"),
    to("train.noise_offset", "noise.offset", diffusion_only(unless_off(number), "Not used with flow matching.")),
    to("train.min_snr_gamma", "loss.min_snr_gamma", diffusion_only(unless_off(number), "Not used with flow matching.")),
    no("train.snr_gamma", "Use `loss.min_snr_gamma`."),
    to("train.min_denoising_steps", "noise.min_timestep", unless_off(number)),
    to(
        "train.max_denoising_steps",
        "noise.max_timestep",
        lambda value, context: 1000 if amount(value) >= 999 else number(value),
    ),
    to("train.loss_type", "loss.type", choice("loss.type", {"mse": "l2", "mae": "l1", "pseudo_huber": "huber"})),
    to("train.reg_weight", "loss.prior_weight", number),
    several("train.diff_output_preservation", "loss.preservation_weight loss.preservation_class", _preservation),
    *irrelevant("train.diff_output_preservation_multiplier train.diff_output_preservation_class", "Written with it."),
    no("train.blank_prompt_preservation", "`loss.preservation_weight` preserves the class instead."),
    *irrelevant("train.blank_prompt_preservation_multiplier", "Read with it only."),
    to("train.prompt_dropout_prob", "caption.dropout", unless_off(number)),
    *irrelevant("train.noise_scheduler train.num_train_timesteps", "The family's own."),
    *irrelevant("train.xformers train.sdp train.attention_backend", HARDWARE),
    *irrelevant(
        "train.skip_first_sample train.force_first_sample train.disable_sampling", "Samples are a stage of their own."
    ),
    *irrelevant(
        "train.bypass_guidance_embedding train.train_refiner train.refiner_lr train.adapter_lr train.embedding_lr",
        "Of other models or kinds of training.",
    ),
    no("train.do_differential_guidance", _WAYS),
    *irrelevant(
        "train.differential_guidance_scale train.switch_boundary_every train.next_sample_timesteps",
        "Read with another option only.",
    ),
    no("train.start_step", "A run goes on by itself from its last state."),
    no("train.inverted_mask_prior", "`loss.mask_floor` weights what a mask leaves out."),
    *irrelevant("train.inverted_mask_prior_multiplier", "Read with it only."),
]

_MULTIPLIERS = (
    *("noise_multiplier", "target_noise_multiplier", "img_multiplier", "noisy_latent_multiplier", "latent_multiplier"),
    *("pred_scaler", "cfg_scale", "audio_loss_multiplier", "optimal_noise_pairing_samples"),
)
_SPECIAL = (
    *(
        "train_turbo",
        "weight_jitter",
        "merge_network_on_save",
        "free_u",
        "random_noise_multiplier",
        "random_noise_shift",
    ),
    *("do_signal_correction_noise", "do_batch_noise_correction", "do_signal_amplification", "adaptive_scaling_factor"),
    *("match_noise_norm", "short_and_long_captions", "standardize_images", "standardize_latents", "do_cfg"),
    *("dynamic_noise_offset", "do_random_cfg", "correct_pred_norm", "t0_loss_target", "do_fft_loss"),
    *("do_prior_divergence", "target_norm_std", "do_paramiter_swapping", "latent_feature_extractor_path"),
    *("diffusion_feature_extractor_path", "force_consistent_noise", "blended_blur_noise", "do_guidance_loss"),
    *("do_blank_stabilization", "max_loss", "learnable_snr_gos", "prompt_saturation_chance", "negative_prompt"),
    *("single_item_batching", "adapter_assist_name_or_path", "validation_config"),
)
TRAIN += [no(f"train.{key}", _WAYS, (None, 1, 1.0)) for key in _MULTIPLIERS]
TRAIN += [no(f"train.{key}", _WAYS) for key in _SPECIAL]

MODEL: list[Row] = [
    to("model.name_or_path", "model.path", model_path),
    *irrelevant("model.arch model.is_xl model.is_flux model.is_v3 model.is_lumina2", "Told the family."),
    to("model.is_v_pred", "noise.prediction", unless_off(lambda value, context: "v_prediction")),
    *irrelevant("model.quantize model.quantize_te model.qtype model.qtype_te model.quantize_kwargs", HARDWARE),
    *irrelevant(
        "model.low_vram model.auto_memory model.layer_offloading model.text_encoder_bits model.te_device", HARDWARE
    ),
    *irrelevant("model.layer_offloading_transformer_percent model.layer_offloading_text_encoder_percent", HARDWARE),
    *irrelevant(
        "model.split_model_over_gpus model.split_model_other_module_param_count_scale model.vae_device", HARDWARE
    ),
    *irrelevant(
        "model.compile model.block_compile model.compile_mode model.compile_fullgraph model.attn_masking", HARDWARE
    ),
    *irrelevant("model.compile_dynamic model.cache_size_limit model.accuracy_recovery_adapter", HARDWARE),
    *irrelevant(
        "model.use_flux_cfg model.inference_lora_path model.latent_space_version model.in_context", "Of its program."
    ),
    to("model.vae_dtype", "latents.precision", precision),
    to("model.te_dtype", "text.precision", precision),
    *irrelevant("model.dtype", "`train.dtype` is what is computed in."),
    no(
        "model.assistant_lora_path",
        "Merge it into the base first (FLUX.1-schnell's training adapter), or train on dev.",
    ),
    no("model.lora_path", "Merge it into the base first."),
    no("model.unconditional_lora_path", "Merge it into the base first."),
    *[
        no(f"model.{key}", "Put it into the base's folder: a diffusers-format folder holds all parts.")
        for key in ("vae_path", "unet_path", "te_name_or_path", "refiner_name_or_path", "extras_name_or_path")
    ],
    no("model.model_kwargs.*", "Options of one model there: see our page of the family."),
    no("model.model_paths.*", "Put them into the base's folder."),
    *irrelevant("model.refiner_start_at model.use_text_encoder_1 model.use_text_encoder_2", "Of other models."),
    *[
        no(f"model.{key}", "We do not train this model.")
        for key in ("is_v2", "is_pixart", "is_pixart_sigma", "is_auraflow", "is_ssd", "is_vega")
    ],
]

OUTPUT: list[Row] = [
    to("save.dtype", "export.dtype", precision),
    to("save.save_every", "save.every", unless_off(lambda value, context: int(amount(value)))),
    to(
        "save.max_step_saves_to_keep",
        "save.keep_last",
        lambda value, context: (
            int(amount(value)) if amount(context.get("save.save_every")) else dropped("Nothing is saved on the way.")
        ),
    ),
    *irrelevant("save.save_format", "We write .safetensors in `export.formats`."),
    *irrelevant("save.push_to_hub save.hf_repo_id save.hf_private", "We do not upload."),
    several("sample.prompts", "sample.prompts", _prompts),
    several("sample.samples", "sample.prompts sample.control_paths", _prompts),
    to(
        "sample.sample_every",
        "sample.every",
        lambda value, context: int(amount(value)) if _sampled(context) else dropped("No prompts."),
    ),
    to(
        "sample.width",
        "sample.width",
        lambda value, context: int(amount(value)) if _sampled(context) else dropped("No prompts."),
    ),
    to(
        "sample.height",
        "sample.height",
        lambda value, context: int(amount(value)) if _sampled(context) else dropped("No prompts."),
    ),
    to("sample.neg", "sample.negative_prompt", unless_off(text)),
    to("sample.seed", "sample.seed", number),
    several("sample.walk_seed", "", _seed_walk, status="changed"),
    to(
        "sample.guidance_scale",
        "sample.guidance",
        lambda value, context: number(value) if _sampled(context) else dropped("No prompts."),
    ),
    to(
        "sample.sample_steps",
        "sample.steps",
        lambda value, context: int(amount(value)) if _sampled(context) else dropped("No prompts."),
    ),
    *irrelevant("sample.sampler", "Samples take the base's own sampler (`sample.sampler`)."),
    no("sample.network_multiplier", "`sample.strengths` shows several.", (None, 1, 1.0)),
    no("sample.guidance_rescale", "Samples are those of diffusers' pipeline."),
    *irrelevant(
        "sample.sample_start_step sample.format sample.ext sample.num_frames sample.fps sample.do_cfg_norm sample.extra_values",
        "Of its program, or of videos.",
    ),
    *irrelevant("sample.adapter_conditioning_scale sample.refiner_start_at", "Of other models."),
    to("logging.log_every", "logging.every", unless_off(number)),
    to("logging.use_wandb", "logging.wandb", unless_off(lambda value, context: "online")),
    to("logging.project_name", "logging.wandb_project", unless_off(text)),
    to("logging.run_name", "logging.wandb_run", unless_off(text)),
    *irrelevant("logging.verbose logging.use_ui_logger", "Of its program."),
    to("log_dir", "logging.tensorboard", unless_off(lambda value, context: True)),
    to("trigger_word", "caption.trigger_word", unless_off(_trigger)),
    to("training_seed", "train.seed", unless_off(number)),
    *irrelevant(
        "type name device training_folder performance_log_every sqlite_db_path torch_profiler", "Of its program."
    ),
    *irrelevant("meta.* config_name first_sample", "Of its program."),
    *[
        no(f"{key}.*", _ONLY_SLIDERS)
        for key in ("adapter", "embedding", "decorator", "slider", "guidance", "do_lorm", "lorm_extract_mode_param")
    ],
    *secret("hf_token save.hf_token"),
]


def _sampled(context: Context) -> bool:
    return bool(context.get("sample.prompts") or context.get("sample.samples"))


def _fate(setting: str, answer: JSON) -> Fate:
    return answer if isinstance(answer, Fate) else Fate({setting: answer})


DEFAULTS: list[Default] = [
    Default("network.linear", 4, lambda context: not context.get("network.rank")),
    Default(
        "network.linear_alpha",
        lambda context: context.get("network.alpha", 1),
        lambda context: context.get("network.alpha") is None,
    ),
    Default("(adapted modules)", "all-linear", lambda context: not any("if_contains" in key for key in context.values)),
    Default("train.steps", 1000),
    Default("train.lr", 1e-6, lambda context: not context.get("train.unet_lr")),
    Default("train.optimizer", "adamw"),
    Default("train.dtype", "fp32"),
    Default("train.gradient_checkpointing", True),
    Default("train.timestep_type", "sigmoid"),
    Default("save.save_every", 1000),
    Default("save.max_step_saves_to_keep", 5),
    Default("sample.sample_every", 100, _sampled),
    Default("sample.width", 512, _sampled),
    Default("sample.height", 512, _sampled),
    Default("sample.guidance_scale", 7, _sampled),
    Default("sample.sample_steps", 20, _sampled),
]

TABLE = Table("Training (`config.process[0]`)", [*NETWORK, *TRAIN, *MODEL, *OUTPUT], DEFAULTS)


def _resolution(value: JSON, context: Context) -> JSON:
    sides = value if isinstance(value, list) else [value]
    return [int(amount(side)) for side in sides]


def _extension(value: JSON, context: Context) -> JSON:
    word = str(value)
    return [word if word.startswith(".") else f".{word}"]


def _buckets(value: JSON, context: Context) -> JSON:
    """Its buckets have any shape; ours have a longest and a shortest side."""
    if not truth(value) or truth(context.get("square_crop")):
        return Fate({"bucket.table": "square"})
    sides = _resolution(context.get("resolution", 512), context)
    limits: dict[str, JSON] = {
        "bucket.table": "grid",
        "bucket.max_side": 2 * max(sides),
        "bucket.min_side": max(64, min(sides) // 2),
    }
    return Fate({**limits, "bucket.upscale": False}, note="Its buckets have any shape and never enlarge a picture.")


def _extra_control(value: JSON, context: Context) -> JSON:
    keys = ("control_path", "control_path_1", "control_path_2", "control_path_3")
    every = [context.get(key) for key in keys if context.get(key)]
    return Fate({"datasets.control_path": [one for value in every for one in paths(value, context)]})


DATASET: list[Row] = [
    to("folder_path", "datasets.path", path),
    to("dataset_path", "datasets.path", path),
    several("control_path", "datasets.control_path", unless_off(_extra_control)),
    *[several(f"control_path_{count}", "datasets.control_path", unless_off(_extra_control)) for count in (1, 2, 3)],
    to("mask_path", "datasets.mask_path", unless_off(path), "White is trained, in both."),
    to("alpha_mask", "datasets.alpha_mask", unless_off(lambda value, context: True)),
    to("mask_min_value", "loss.mask_floor", unless_off(number)),
    no("invert_mask", "White is trained here: invert the masks."),
    to("resolution", "datasets.resolutions", _resolution, "Its default is 512."),
    several("buckets", "bucket.table bucket.max_side", _buckets),
    *irrelevant("square_crop", "Read with `buckets`."),
    to("bucket_tolerance", "bucket.step", number),
    to("caption_ext", "caption.extensions", _extension, "`.txt` unless given."),
    to("caption_type", "caption.extensions", _extension),
    to("default_caption", "datasets.class_tokens", unless_off(text)),
    to("trigger_word", "datasets.trigger_word", unless_off(text)),
    to("caption_dropout_rate", "caption.dropout", number),
    to("token_dropout_rate", "tags.dropout", number),
    to("shuffle_tokens", "tags.shuffle", unless_off(lambda value, context: True)),
    to("keep_tokens", "tags.keep_tokens", unless_off(number)),
    to("(lines of a caption)", "caption.multiline", text, "It reads the whole caption file."),
    to("(picture without a caption)", "caption.missing", text, "It trains those on the empty caption."),
    to("(held out)", "datasets.held_out", number, "It trains on every picture."),
    to("num_repeats", "datasets.repeats", number),
    to("is_reg", "datasets.regularisation", unless_off(lambda value, context: True)),
    no("prior_reg", "`is_reg` is `datasets.regularisation`; the base's own prediction: `loss.preservation_weight`."),
    to("loss_multiplier", "datasets.loss_weight", number),
    no("network_weight", "One strength holds for all folders.", (None, 1, 1.0)),
    to("flip_x", "augment.flip", unless_off(lambda value, context: True)),
    no("flip_y", "Pictures are mirrored left to right only."),
    to("random_crop", "augment.crop", unless_off(lambda value, context: "random")),
    no("random_scale", "Use `augment.crop_scale` with `augment.crop: random`."),
    no("scale", "Pictures are resized to their bucket.", (None, 1, 1.0)),
    no("augments", "See `augment` for what there is."),
    no("augmentations", "See `augment` for what there is."),
    no("controls", "Make the control pictures beforehand and give their folder."),
    no("inpaint_path", "Inpainting is not trained here."),
    no("unconditional_path", "There is nothing like it here."),
    no("clip_image_path", "Image adapters are not trained here."),
    no("control_from_same_folder", "Give the folder of control pictures as `control_path`."),
    no("random_triggers", "One `trigger_word` a folder."),
    no("replacements", "Change the caption files."),
    no("use_short_captions", "Give captions as text files."),
    no("standardize_images", "Pictures are scaled to [-1, 1], as the VAE was trained."),
    no("diff_output_preservation", "It holds for all folders: `loss.preservation_weight`."),
    no("diff_output_preservation_class", "It holds for all folders: `loss.preservation_class`."),
    *irrelevant("cache_latents cache_latents_to_disk cache_text_embeddings cache_clip_vision_to_disk", CACHED),
    *irrelevant("cache_tensors_to_disk load_image_when_caching_latents cache_latents_num_workers", CACHED),
    *irrelevant("num_workers prefetch_factor fast_image_size debug replay_transforms", "Of its program."),
    *irrelevant("type full_size_control_images control_transparent_color guidance_type batch_size", "Of its program."),
    *irrelevant(
        "num_frames shrink_video_to_frames fps auto_frame_count trim_auto_frame_count_tail do_i2v", "Of videos."
    ),
    *irrelevant("do_audio audio_preserve_pitch audio_normalize extra_values shuffle_augmentations", "Of videos."),
]

DATASET_DEFAULTS: list[Default] = [
    Default("resolution", 512),
    Default("buckets", True),
    Default("caption_ext", ".txt"),
    Default("(lines of a caption)", "whole"),
    Default("(picture without a caption)", "empty"),
    Default("(held out)", 0.0),
]

DATASET_TABLE = Table("Datasets", DATASET, DATASET_DEFAULTS)


def recognise(data: JSON) -> str:
    """Tell by what values are ai-toolkit's."""
    config = data.get("config") if isinstance(data, Mapping) else None
    process = config.get("process") if isinstance(config, Mapping) else None
    return "`config.process`" if isinstance(process, list) and process else ""


def read(loaded: Loaded) -> Source:
    """Take a config of ai-toolkit apart.

    Raises:
        ImportFailed: it is not a training job.
    """
    if not recognise(loaded.data):
        raise failure(str(loaded.path), "has no `config.process`.", "Give a training config of ai-toolkit.")
    config: Mapping[str, JSON] = loaded.data["config"]
    process: Mapping[str, JSON] = config["process"][0]
    extra = [
        (
            f"config.process.{number_}",
            str(one.get("type", "")),
            refused("One project is one training: import it apart."),
        )
        for number_, one in enumerate(config["process"])
        if number_
    ]
    extra += [("job", loaded.data.get("job"), dropped("Of its program."))]
    extra += [
        (f"config.{key}", value, dropped("The name of the project.")) for key, value in config.items() if key == "name"
    ]
    rest = {key: value for key, value in loaded.data.items() if key not in ("job", "config")}
    rest |= {key: value for key, value in config.items() if key not in ("name", "process")}
    folders = process.get("datasets") or []
    values = flat({key: value for key, value in process.items() if key != "datasets"}) | flat(rest)
    sections = [Section(one, DATASET_TABLE, f"datasets.{count}.") for count, one in enumerate(folders)]
    return Source(Section(values, TABLE), sections, _family(values), str(config.get("name") or ""), extra)


def _family(values: Mapping[str, JSON]) -> Told:
    architecture = str(values.get("model.arch") or "")
    if architecture:
        found = ARCHITECTURES.get(architecture.split(":")[0], "")
        problem = "" if found else f"is {architecture}, which we do not train."
        return Told(found, "`model.arch`", problem=problem)
    for flag, family in _FLAGS.items():
        if truth(values.get(f"model.{flag}")):
            return Told(family, f"`model.{flag}`")
    for flag in ("is_v2", "is_pixart", "is_pixart_sigma", "is_auraflow", "is_ssd", "is_vega"):
        if truth(values.get(f"model.{flag}")):
            return Told("", f"`model.{flag}`", problem=f"is told by `{flag}`: a model that we do not train.")
    return Told("sd15", "no `arch`, which means SD1.5 there")


TOOL = Tool("ai-toolkit", "ostris' ai-toolkit", recognise, read, (TABLE, DATASET_TABLE))
