"""SimpleTuner's options of samples, files and hardware."""

from __future__ import annotations

from trainer_core.importers.core.convert import (
    amount,
    choice,
    number,
    several_numbers,
    side_of,
    text,
    unless_off,
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
    secret,
    several,
    to,
)
from trainer_core.importers.core.key_table import unsupported as no
from trainer_core.importers.core.memory_settings import answered, base_rows, swap_rows
from trainer_core.importers.simpletuner.adapter import HARDWARE
from trainer_core.types import JSON

PROGRAM = "It matters in the other program only."

_CACHE = "Latents and embeddings are always cached here, and every change is noticed."

_OTHER = "We have no such setting. The groups `loss`, `noise` and `train` list what there is."


def _report_to(value: JSON, context: Context) -> JSON:
    kinds = str(value).lower().split(",")
    found: dict[str, JSON] = {}
    if "tensorboard" in kinds or "all" in kinds:
        found["logging.tensorboard"] = True
    if "wandb" in kinds or "all" in kinds:
        found["logging.wandb"] = "online"
    if found:
        return Conversion(found)
    return (
        dropped("It is off in the other tool.")
        if kinds == ["none"]
        else refused("Only TensorBoard and Weights & Biases are supported.")
    )


def _sampled(context: Context) -> bool:
    return bool(context.get("validation_prompt") or context.get("user_prompt_library"))


def _if_sampled(convert: Convert) -> Convert:
    return lambda value, context: (
        convert(value, context) if _sampled(context) else dropped("The config has no prompts.")
    )


def _size(value: JSON, context: Context) -> JSON:
    """`1024`, `1024x768`, or several separated by commas: the first."""
    first = str(value).split(",")[0]
    sides = [int(amount(side)) for side in several_numbers(first.lower().replace("x", ","))]
    if not sides:
        return dropped("It is empty.")
    if len(sides) == 1 and float(first) < 16:
        sides = [side_of(float(first) * 1e6, 1.0)]
    width, height = sides[0], sides[-1]
    found: dict[str, JSON] = {"sample.width": width, "sample.height": height}
    return changed(found, "The first of several sizes.") if "," in str(value) else Conversion(found)


OUTPUT: list[Row] = [
    to(
        "checkpoint_step_interval",
        "save.every",
        unless_off(
            lambda value, context: Conversion(
                {"save.every": int(amount(value)), "train.checkpoint_every": int(amount(value))}
            )
        ),
        "One checkpoint there has both the LoRA and the state.",
    ),
    to("checkpoint_epoch_interval", "save.every_epochs", unless_off(number)),
    to("checkpoints_total_limit", "save.keep_last", unless_off(number)),
    *irrelevant(
        "checkpointing_rolling_steps checkpoints_rolling_total_limit checkpointing_use_tempdir",
        "Every run can be resumed here.",
    ),
    *irrelevant("resume_from_checkpoint", "A stopped run goes on from its last state; no setting is needed."),
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
                    "unipc": "unipc",
                    "ddpm": "ddpm",
                },
            )
        ),
    ),
    *irrelevant(
        "validation_guidance_rescale validation_guidance_real validation_disable_unconditional",
        "Samples are rendered by diffusers' pipeline.",
    ),
    *irrelevant(
        "validation_no_cfg_until_timestep validation_lycoris_strength num_validation_images",
        "Use `sample.strengths`: samples are rendered at several strengths.",
    ),
    *irrelevant("validation_* disable_benchmark num_eval_images", PROGRAM),
    *irrelevant(
        "eval_* evaluation_type pretrained_evaluation_model_name_or_path", "`train.evaluate_every` and `gate` measure."
    ),
    several("report_to", "logging.tensorboard logging.wandb", _report_to),
    to(
        "tracker_project_name",
        "logging.wandb_project",
        lambda value, context: (
            str(value)
            if "wandb" in str(context.get("report_to"))
            else dropped("Weights & Biases is off in the other tool.")
        ),
    ),
    to(
        "tracker_run_name",
        "logging.wandb_run",
        lambda value, context: (
            str(value)
            if "wandb" in str(context.get("report_to"))
            else dropped("Weights & Biases is off in the other tool.")
        ),
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
    *irrelevant(
        "post_checkpoint_script post_upload_script", "Scripts are not run. A Dagster sensor can act on a new result."
    ),
    to("num_processes", "hardware.num_processes", number),
]


def _interval(value: JSON, context: Context) -> JSON:
    """Read the distance between checkpointed blocks."""
    if amount(value) <= 1:
        return dropped("Every block, as `gradient_checkpointing` says.")
    note = "" if amount(value) == 2 else "Every second block here, which needs less memory."  # noqa: PLR2004 - a distance
    return answered({"train.gradient_checkpointing": "every_second"}, note, differs=bool(note))


OTHER: list[Row] = [
    *base_rows("base_model_precision"),
    *swap_rows("musubi_blocks_to_swap"),
    to("gradient_checkpointing_interval", "train.gradient_checkpointing", _interval),
    *memory("quantization_config quantize_activations"),
    *memory("text_encoder_1_precision text_encoder_2_precision text_encoder_3_precision text_encoder_4_precision"),
    *memory("ramtorch enable_group_offload dynamo_backend deepspeed_config fsdp_enable"),
    *memory("enable_chunked_feed_forward"),
    *irrelevant("feed_forward_chunk_size", "See `enable_chunked_feed_forward`."),
    *memory("vae_enable_tiling vae_enable_slicing vae_enable_patch_conv"),
    *irrelevant("base_model_default_dtype quantize_via", "See `base_model_precision`."),
    *irrelevant(
        "sdnq_* attention_mechanism sageattention_usage sla_config disable_tf32 allow_tf32 set_grads_to_none", HARDWARE
    ),
    *irrelevant("enable_xformers_memory_efficient_attention fuse_qkv_projections offload_during_startup", HARDWARE),
    *irrelevant("offload_during_save delete_model_after_load ramtorch_* group_offload_*", HARDWARE),
    *irrelevant("musubi_* gradient_checkpointing_* vae_enable_* keep_vae_loaded unet_attention_slice", HARDWARE),
    *irrelevant("accelerator_cache_clear_interval dynamo_* num_machines machine_rank main_process_ip", HARDWARE),
    *irrelevant("main_process_port same_network accelerate_config accelerate_extra_args fsdp_*", HARDWARE),
    *irrelevant(
        "context_parallel_* find_unused_parameters max_workers aws_max_pool_connections torch_num_threads", HARDWARE
    ),
    *irrelevant(
        "dataloader_prefetch dataloader_prefetch_qlen aspect_bucket_worker_count enable_multiprocessing", HARDWARE
    ),
    *irrelevant("local_rank seed_for_each_device", HARDWARE),
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
    no(
        "conditioning_multidataset_sampling",
        "A sample gets the control pictures of all folders.",
        (None, "", "combined"),
    ),
    no("data_backend_sampling", "Set `repeats` of the folders.", (None, "auto-weighting", "")),
    *irrelevant("disable_segmented_timestep_sampling", "Here each draw follows from the seed alone."),
    *irrelevant(
        "training_scheduler_timestep_spacing inference_scheduler_timestep_spacing", "It is the base's own value."
    ),
    *irrelevant("fully_unload_text_encoder save_text_encoder text_encoder_limit data_aesthetic_score", PROGRAM),
    *irrelevant(
        "delete_unwanted_images delete_problematic_images enable_nsfw_check nsfw_check_* delete_nsfw_images",
        "Nothing is deleted here.",
    ),
    *irrelevant(
        "debug_* print_filenames print_sampler_statistics i_know_what_i_am_doing merge_environment_config", PROGRAM
    ),
    *irrelevant(
        "tracker_image_layout enable_watermark framerate custom_tracker snr_weight disk_low_* ignore_missing_files",
        PROGRAM,
    ),
    *irrelevant(
        "delete_invalid_checkpoints freeze_encoder* soft_min_snr_sigma_data audio_* deepfloyd_* ltx2_* wan_*",
        "It matters in the other program only, or for other models.",
    ),
    no("layer_freeze_strategy", _OTHER, (None, "none", "")),
    *[
        no(key, _OTHER)
        for key in (
            "tread_config.*",
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
        "See the key that switches it on.",
    ),
    *irrelevant(
        "diff2flow_* scheduled_sampling_* refiner_training_* distillation_config flow_timesteps_mode",
        "See the key that switches it on.",
    ),
    *secret("wandb_api_key hf_token"),
]
