"""SimpleTuner's options of training."""

from __future__ import annotations

from trainer_core.importers import optimizers, schedules
from trainer_core.importers.convert import (
    amount,
    choice,
    diffusion_only,
    flow_only,
    model_path,
    number,
    path,
    precision,
    several_numbers,
    shift_sampling,
    side_of,
    text,
    truth,
    unless_off,
    warmup,
)
from trainer_core.importers.kohya_network import ALGORITHMS, ENCODERS
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
_CACHE = "Latents and embeddings are always cached here, under keys that notice every change."
_OTHER = "We have nothing like it: see `loss`, `noise` and `train` for what there is."
_ON = unless_off(lambda value, context: True)


def _lycoris(context: Context) -> bool:
    return str(context.get("lora_type", "standard")) == "lycoris"


def _type(value: JSON, context: Context) -> JSON:
    if _lycoris(context):
        return dropped("The file of `lycoris_config` says which kind.")
    return Fate({"adapter.type": "dora" if truth(context.get("use_dora")) else "lora"})


def _plain_lora(value: JSON, context: Context) -> JSON:
    return dropped("The file of `lycoris_config` goes before it.") if _lycoris(context) else number(value)


def _algo(value: JSON, context: Context) -> JSON:
    return ALGORITHMS.get(str(value).lower()) or refused("Choose one of `adapter.type`.")


def _lycoris_rank(value: JSON, context: Context) -> JSON:
    """LoKr with a huge dimension trains whole matrices."""
    if amount(value) > 4096:
        return Fate({"adapter_options.full_matrix": True}, note="So large a dimension means whole matrices.")
    return int(amount(value))


def _lycoris_alpha(value: JSON, context: Context) -> JSON:
    if amount(context.get("lycoris.linear_dim")) > 4096:
        return dropped("Whole matrices are not scaled.")
    return number(value)


def _preset(value: JSON, context: Context) -> JSON:
    fix = "Write what it adapts as `adapter.targets`, and other ranks as `adapter.blocks`."
    kinds = [str(kind) for kind in (value if isinstance(value, list) else [value])]
    if all("Attention" in kind for kind in kinds):
        return Fate({"adapter.targets": "attention"})
    if set(kinds) <= {"Attention", "FeedForward"} and kinds:
        return Fate({"adapter.targets": "attention+mlp"})
    return refused(fix)


def _lora_target(value: JSON, context: Context) -> JSON:
    known = {"all": "attention", "all+ffs": "attention+mlp"}
    if str(value) in known:
        return Fate({"adapter.targets": known[str(value)]})
    return refused("Write what it adapts as `adapter.targets`: a regex over module names.")


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
        return dropped("The class's own.")
    return Fate(
        {
            "optimizer.betas": [
                number(first if first is not None else 0.9),
                number(second if second is not None else 0.999),
            ]
        }
    )


def _weighted_adam(setting: str) -> JSON:
    def convert(value: JSON, context: Context) -> JSON:
        if f"optimizer_config.{setting}" in context.values:
            return dropped("`optimizer_config` goes before it.")
        return number(value)

    return convert


def _cycles(value: JSON, context: Context) -> JSON:
    named = str(context.get("lr_scheduler")) in ("cosine_with_restarts", "sine")
    return max(1, int(amount(value))) if named else dropped("Read for cosine_with_restarts only.")


def _power(value: JSON, context: Context) -> JSON:
    return number(value) if str(context.get("lr_scheduler")) == "polynomial" else dropped("Read for polynomial only.")


def _end(value: JSON, context: Context) -> JSON:
    """Its schedules end at a rate, ours at a share of the peak."""
    if str(context.get("lr_scheduler")) not in ("polynomial", "cosine", "cosine_with_restarts"):
        return dropped("Not read for this schedule.")
    peak = amount(context.get("learning_rate", 4e-7))
    return Fate({"schedule.min_lr_ratio": min(1.0, round(amount(value) / peak, 6))}) if peak else dropped("No rate.")


def _length(value: JSON, context: Context) -> JSON:
    steps, epochs = amount(context.get("max_train_steps")), amount(context.get("num_train_epochs", 1))
    if context.key == "max_train_steps":
        return int(steps) if steps else dropped("0 leaves it to `num_train_epochs`.")
    return dropped("`max_train_steps` goes before it.") if steps else number(epochs)


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
        return Fate({**kind, "noise.shift": "resolution"})
    if truth(context.get("flow_use_beta_schedule")):
        return changed(found, "We have no beta distribution: logit-normal instead.")
    return Fate(found)


def _offset(value: JSON, context: Context) -> JSON:
    if not truth(context.get("offset_noise")):
        return dropped("Without `offset_noise`.")
    chance = amount(context.get("noise_offset_probability", 0.25))
    if chance < 1:
        return changed(
            {"noise.offset": number(value)}, f"It offsets {chance:g} of the draws; ours all of them: lower it."
        )
    return number(value)


def _ema(value: JSON, context: Context) -> JSON:
    return Fate({"train.ema_decay": number(context.get("ema_decay", 0.995))}) if truth(value) else dropped("Off there.")


def _report_to(value: JSON, context: Context) -> JSON:
    kinds = str(value).lower().split(",")
    found: dict[str, JSON] = {}
    if "tensorboard" in kinds or "all" in kinds:
        found["logging.tensorboard"] = True
    if "wandb" in kinds or "all" in kinds:
        found["logging.wandb"] = "online"
    if found:
        return Fate(found)
    return dropped("Off there.") if kinds == ["none"] else refused("We tell TensorBoard and Weights & Biases.")


def _clip(value: JSON, context: Context) -> JSON:
    if str(context.get("grad_clip_method", "value")) == "value":
        note = "It cuts each gradient's values at this; ours scales all of them to this norm."
        return changed({"optimizer.max_grad_norm": number(value)}, note)
    return number(value)


def _sampled(context: Context) -> bool:
    return bool(context.get("validation_prompt") or context.get("user_prompt_library"))


def _if_sampled(convert: JSON) -> JSON:
    return lambda value, context: convert(value, context) if _sampled(context) else dropped("No prompts.")


def _size(value: JSON, context: Context) -> JSON:
    """`1024`, `1024x768`, or several parted by commas: the first."""
    first = str(value).split(",")[0]
    sides = [int(amount(side)) for side in several_numbers(first.lower().replace("x", ","))]
    if not sides:
        return dropped("Not given.")
    if len(sides) == 1 and float(first) < 16:
        sides = [side_of(float(first) * 1e6, 1.0)]
    width, height = sides[0], sides[-1]
    found: dict[str, JSON] = {"sample.width": width, "sample.height": height}
    return changed(found, "The first of several sizes.") if "," in str(value) else Fate(found)


ADAPTER: list[Row] = [
    several("lora_type", "adapter.type", _type),
    *irrelevant("use_dora", "Told the kind: DoRA."),
    to("lora_rank", "adapter.rank", _plain_lora),
    to("lora_alpha", "adapter.alpha", _plain_lora, "The rank unless given."),
    to("lora_dropout", "adapter.dropout", _plain_lora, "Its default is 0.1."),
    no("lora_init_type", "Adapters begin with B = 0.", (None, "default", "")),
    no("peft_lora_target_modules", "Write what it adapts as `adapter.targets`: a regex over module names."),
    *[several(key, "adapter.targets", _lora_target) for key in ("flux_lora_target", "sd3_lora_target")],
    no("peft_lora_mode", "Ours is plain LoRA.", (None, "standard", "")),
    no("slider_lora_target", "Sliders are not trained here."),
    to("init_lora", "adapter.init_from", unless_off(path)),
    no("init_lokr_norm", "LoKr begins at zero here."),
    no("assistant_lora_path", "Merge it into the base first."),
    to(
        "lora_format",
        "export.formats",
        lambda value, context: ["comfyui"] if value == "comfyui" else dropped("Ours too."),
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
    to("lycoris.full_matrix", "adapter_options.full_matrix", _ON),
    to("lycoris.use_tucker", "adapter_options.tucker", _ON),
    to("lycoris.dora_wd", "adapter_options.decompose", _ON),
    to("lycoris.rs_lora", "adapter_options.rslora", _ON),
    to("lycoris.block_size", "adapter_options.block_size", unless_off(number)),
    to("lycoris.constraint", "adapter_options.constraint", unless_off(number)),
    to("lycoris.rescaled", "adapter_options.rescaled", _ON),
    several("lycoris.apply_preset.target_module", "adapter.targets", _preset),
    *[
        no(f"lycoris.apply_preset.{key}", "Write other ranks as `adapter.blocks`: a regex -> rank and alpha.")
        for key in ("module_algo_map.*", "name_algo_map.*", "target_name")
    ],
    *irrelevant(
        "lycoris.multiplier lycoris.bypass_mode lycoris.use_scalar lycoris.weight_decompose",
        "How its code computes the same.",
    ),
    *irrelevant("lycoris_config", "Read, and reported key by key."),
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
    *irrelevant("optimizer_config", "Read, and reported argument by argument."),
    *[
        several(key, "optimizer.betas", _betas)
        for key in ("adam_beta1", "adam_beta2", "optimizer_beta1", "optimizer_beta2")
    ],
    to("adam_weight_decay", "optimizer.weight_decay", _weighted_adam("weight_decay")),
    to("adam_epsilon", "optimizer.eps", _weighted_adam("eps")),
    to("max_grad_norm", "optimizer.max_grad_norm", _clip),
    *irrelevant("grad_clip_method", "Read with `max_grad_norm`."),
    several("lr_scheduler", "schedule.name", lambda value, context: schedules.named(schedules.SIMPLETUNER, value)),
    several("lr_warmup_steps", "schedule.warmup_steps", unless_off(warmup)),
    to("lr_num_cycles", "schedule.cycles", _cycles),
    to("lr_power", "schedule.power", _power),
    several("lr_end", "schedule.min_lr_ratio", _end),
    no("lr_scale", "Multiply `optimizer.lr` yourself."),
    no("lr_scale_sqrt", "Multiply `optimizer.lr` yourself."),
    *irrelevant("optimizer_cpu_offload_method gradient_precision optimizer_offload_gradients fuse_optimizer", HARDWARE),
    *irrelevant("optimizer_release_gradients prodigy_steps", HARDWARE),
]

TRAINING: list[Row] = [
    to("pretrained_model_name_or_path", "model.path", model_path),
    to("revision", "model.revision", unless_off(text)),
    *irrelevant("model_family model_flavour model_type controlnet control variant", "Told the family."),
    *[
        no(key, "Put it into the base's folder: a diffusers-format folder holds all parts.")
        for key in (
            "pretrained_vae_model_name_or_path",
            "pretrained_transformer_model_name_or_path",
            "pretrained_unet_model_name_or_path",
            "pretrained_t5_model_name_or_path",
            "pretrained_gemma_model_name_or_path",
            "qwen_text_encoder_model_name_or_path",
        )
    ],
    *irrelevant("pretrained_transformer_subfolder pretrained_unet_subfolder trust_remote_code", _PROGRAM),
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
        "ema_decay ema_device ema_cpu_only ema_foreach_disable ema_validation", "Written with `use_ema`, or hardware."
    ),
    no("ema_update_interval", "The average moves every step.", (None, 1)),
    no("ema_warmup_steps", "The average's decay rises from the start."),
    several("flow_schedule_shift", "noise.timestep_sampling noise.shift", flow_only(_sampling)),
    *irrelevant(
        "flow_sigmoid_scale flow_use_uniform_schedule flow_schedule_auto_shift flow_use_beta_schedule",
        "Written with `flow_schedule_shift`.",
    ),
    *irrelevant("flow_beta_schedule_alpha flow_beta_schedule_beta", "Written with `flow_schedule_shift`."),
    to("flux_guidance_value", "noise.guidance", number),
    *irrelevant("flux_guidance_mode flux_guidance_min flux_guidance_max", "Guidance is constant (`noise.guidance`)."),
    to("noise_offset", "noise.offset", diffusion_only(_offset, "Not used with flow matching.")),
    *irrelevant("offset_noise noise_offset_probability", "Read with `noise_offset`."),
    to("input_perturbation", "noise.ip_gamma", unless_off(number)),
    no("input_perturbation_steps", "It holds for the whole run."),
    to("rescale_betas_zero_snr", "noise.zero_terminal_snr", _ON),
    to(
        "prediction_type",
        "noise.prediction",
        diffusion_only(
            choice("noise.prediction", {"epsilon": "epsilon", "v_prediction": "v_prediction"}), "The family's own."
        ),
    ),
    to("snr_gamma", "loss.min_snr_gamma", diffusion_only(unless_off(number), "Not used with flow matching.")),
    to("use_soft_min_snr", "loss.soft_min_snr", diffusion_only(_ON, "Not used with flow matching.")),
    to(
        "loss_type",
        "loss.type",
        choice("loss.type", {"l2": "l2", "l1": "l1", "huber": "huber", "smooth_l1": "smooth_l1"}),
    ),
    to("huber_schedule", "loss.huber_schedule", text),
    to("huber_c", "loss.huber_c", number),
    no("masked_loss_probability", "Masks hold in every step here.", (None, 1, 1.0)),
    to("caption_dropout_probability", "caption.dropout", number),
    to("tokenizer_max_length", "text.max_length", unless_off(number)),
    *irrelevant("t5_padding", "As in diffusers' pipeline."),
    *irrelevant(
        "resolution resolution_type caption_strategy instance_prompt prepend_instance_prompt", "See the backends."
    ),
    *irrelevant("data_backend_config", "Read, and reported key by key."),
    to("aspect_bucket_alignment", "bucket.step", number),
    *irrelevant("minimum_image_size aspect_bucket_rounding", "See the backends."),
    to("vae_batch_size", "latents.batch_size", number),
    to(
        "text_encoder_batch_size",
        "text.batch_size",
        lambda value, context: number(value) if amount(value) > 1 else dropped("The profile's choice."),
    ),
    to("vae_dtype", "latents.precision", precision),
    no("timestep_bias_strategy", "Move noise levels with `noise.min_timestep` and `max_timestep`.", (None, "none", "")),
    *irrelevant(
        "timestep_bias_begin timestep_bias_end timestep_bias_multiplier timestep_bias_portion",
        "Read with its strategy.",
    ),
]

OUTPUT: list[Row] = [
    to(
        "checkpoint_step_interval",
        "save.every",
        unless_off(
            lambda value, context: Fate(
                {"save.every": int(amount(value)), "train.checkpoint_every": int(amount(value))}
            )
        ),
        "Its checkpoints are LoRA and state together.",
    ),
    to("checkpoint_epoch_interval", "save.every_epochs", unless_off(number)),
    to("checkpoints_total_limit", "save.keep_last", unless_off(number)),
    *irrelevant(
        "checkpointing_rolling_steps checkpoints_rolling_total_limit checkpointing_use_tempdir",
        "Every run can be resumed here.",
    ),
    *irrelevant("resume_from_checkpoint", "A run goes on by itself from its last state."),
    to("validation_prompt", "sample.prompts", unless_off(lambda value, context: [str(value)])),
    no("user_prompt_library", "Write the prompts into a file and set `sample.prompt_file`."),
    no("validation_prompt_library", "Write prompts of your own: `sample.prompts`."),
    to("validation_negative_prompt", "sample.negative_prompt", _if_sampled(text)),
    to("validation_step_interval", "sample.every", _if_sampled(lambda value, context: int(amount(value)))),
    to("validation_epoch_interval", "sample.every_epochs", _if_sampled(unless_off(number))),
    to("validation_guidance", "sample.guidance", _if_sampled(number)),
    to("validation_num_inference_steps", "sample.steps", _if_sampled(number)),
    to("validation_seed", "sample.seed", _if_sampled(number)),
    several("validation_resolution", "sample.width sample.height", _if_sampled(_size)),
    to(
        "validation_noise_scheduler",
        "sample.sampler",
        unless_off(
            choice(
                "sample.sampler",
                {
                    "euler": "euler",
                    "euler-a": "euler_a",
                    "ddim": "ddim",
                    "unipc": "UniPCMultistepScheduler",
                    "ddpm": "DDPMScheduler",
                },
            )
        ),
    ),
    *irrelevant(
        "validation_guidance_rescale validation_guidance_real validation_disable_unconditional",
        "Samples are those of diffusers' pipeline.",
    ),
    *irrelevant(
        "validation_no_cfg_until_timestep validation_lycoris_strength num_validation_images",
        "`sample.strengths` shows several.",
    ),
    *irrelevant("validation_* disable_benchmark num_eval_images", _PROGRAM),
    *irrelevant(
        "eval_* evaluation_type pretrained_evaluation_model_name_or_path", "`train.evaluate_every` and `gate` measure."
    ),
    several("report_to", "logging.tensorboard logging.wandb", _report_to),
    to(
        "tracker_project_name",
        "logging.wandb_project",
        lambda value, context: str(value) if "wandb" in str(context.get("report_to")) else dropped("Not told."),
    ),
    to(
        "tracker_run_name",
        "logging.wandb_run",
        lambda value, context: str(value) if "wandb" in str(context.get("report_to")) else dropped("Not told."),
    ),
    *irrelevant("output_dir logging_dir configs_dir", "Results lie in `.lora-assets/outputs/NAME/`."),
    *irrelevant("hub_model_id", "The name of the project."),
    *irrelevant(
        "push_to_hub push_to_hub_background push_checkpoints_to_hub publishing_config model_card_private",
        "We do not upload.",
    ),
    *irrelevant(
        "model_card_note model_card_safe_for_work modelspec_comment webhook_config webhook_reporting_interval",
        "We do not upload.",
    ),
    *irrelevant("post_checkpoint_script post_upload_script", "Scripts are not run: Dagster's sensors see new results."),
    to("num_processes", "hardware.num_processes", number),
]

OTHER: list[Row] = [
    *irrelevant(
        "base_model_precision base_model_default_dtype quantize_via quantization_config quantize_activations", HARDWARE
    ),
    *irrelevant(
        "text_encoder_1_precision text_encoder_2_precision text_encoder_3_precision text_encoder_4_precision", HARDWARE
    ),
    *irrelevant(
        "sdnq_* attention_mechanism sageattention_usage sla_config disable_tf32 allow_tf32 set_grads_to_none", HARDWARE
    ),
    *irrelevant("enable_xformers_memory_efficient_attention fuse_qkv_projections offload_during_startup", HARDWARE),
    *irrelevant(
        "offload_during_save delete_model_after_load ramtorch ramtorch_* enable_group_offload group_offload_*", HARDWARE
    ),
    *irrelevant("musubi_* gradient_checkpointing_* vae_enable_* keep_vae_loaded unet_attention_slice", HARDWARE),
    *irrelevant("accelerator_cache_clear_interval dynamo_* num_machines machine_rank main_process_ip", HARDWARE),
    *irrelevant(
        "main_process_port same_network accelerate_config accelerate_extra_args deepspeed_config fsdp_*", HARDWARE
    ),
    *irrelevant(
        "context_parallel_* find_unused_parameters max_workers aws_max_pool_connections torch_num_threads", HARDWARE
    ),
    *irrelevant(
        "dataloader_prefetch dataloader_prefetch_qlen aspect_bucket_worker_count enable_multiprocessing", HARDWARE
    ),
    *irrelevant("enable_chunked_feed_forward feed_forward_chunk_size local_rank seed_for_each_device", HARDWARE),
    *irrelevant(
        "cache_dir cache_dir_text cache_dir_vae compress_disk_cache text_cache_* text_embed_full_cache vae_cache_*",
        _CACHE,
    ),
    *irrelevant("preserve_data_backend_cache override_dataset_config skip_file_discovery write_batch_size", _CACHE),
    *irrelevant("read_batch_size image_processing_batch_size metadata_update_interval", _CACHE),
    *irrelevant(
        "aspect_bucket_disable_rebuild disable_bucket_pruning allow_dataset_oversubscription",
        "Buckets of any size are trained.",
    ),
    no("data_backend_sampling", "Set `repeats` of the folders.", (None, "auto-weighting", "")),
    *irrelevant("disable_segmented_timestep_sampling", "Each draw is made by seed on its own."),
    *irrelevant("training_scheduler_timestep_spacing inference_scheduler_timestep_spacing", "The base's own."),
    *irrelevant("fully_unload_text_encoder save_text_encoder text_encoder_limit data_aesthetic_score", _PROGRAM),
    *irrelevant(
        "delete_unwanted_images delete_problematic_images enable_nsfw_check nsfw_check_* delete_nsfw_images",
        "Nothing is deleted here.",
    ),
    *irrelevant(
        "debug_* print_filenames print_sampler_statistics i_know_what_i_am_doing merge_environment_config", _PROGRAM
    ),
    *irrelevant(
        "tracker_image_layout enable_watermark framerate custom_tracker snr_weight disk_low_* ignore_missing_files",
        _PROGRAM,
    ),
    *irrelevant(
        "delete_invalid_checkpoints freeze_encoder* soft_min_snr_sigma_data audio_* deepfloyd_* ltx2_* wan_*",
        "Of its program, or of other models.",
    ),
    no("layer_freeze_strategy", _OTHER, (None, "none", "")),
    *[
        no(key, _OTHER)
        for key in (
            "tread_config",
            "diffusion_blocks_config",
            "distillation_method",
            "refiner_training",
            "flow_custom_timesteps",
            "flow_cubic_schedule_weights",
        )
    ],
    *[
        no(f"{key}_enabled", _OTHER)
        for key in (
            "xm",
            "nextlat",
            "irepa",
            "crepa",
            "urepa",
            "twinflow",
            "internal_guidance",
            "layersync",
            "mixflow",
            "diff2flow",
        )
    ],
    *irrelevant(
        "xm_* nextlat_* irepa_* crepa_* urepa_* twinflow_* internal_guidance_* layersync_* mixflow_*",
        "Read with its switch only.",
    ),
    *irrelevant(
        "diff2flow_* scheduled_sampling_* refiner_training_* distillation_config flow_timesteps_mode",
        "Read with its switch only.",
    ),
    *secret("wandb_api_key hf_token"),
]

DEFAULTS: list[Default] = [
    Default("lora_rank", 16),
    Default("lora_alpha", lambda context: context.get("lora_rank", 16)),
    Default("lora_dropout", 0.1),
    Default(
        "(adapted modules)", "attention", lambda context: not _lycoris(context) and not context.get("flux_lora_target")
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
    Default("caption_dropout_probability", 0.1),
    Default("checkpoint_step_interval", 500),
    Default("checkpoints_total_limit", 5),
    Default("validation_negative_prompt", "blurry, cropped, ugly"),
    Default("validation_step_interval", 100),
    Default("validation_guidance", 7.5),
    Default("validation_num_inference_steps", 30),
]

TABLE = Table("Training", [*ADAPTER, *OPTIMIZER, *TRAINING, *OUTPUT, *OTHER], DEFAULTS)
