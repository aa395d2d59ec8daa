"""kohya's keys of hardware, of its program, and of what we have nothing for."""

from __future__ import annotations

from trainer_core.importers.core.components import text_encoder_rows, vae_row
from trainer_core.importers.core.key_table import Row, irrelevant, memory
from trainer_core.importers.core.key_table import unsupported as no
from trainer_core.importers.core.memory_settings import base_rows, offload_rows, swap_rows, switched

HARDWARE = "It is a matter of hardware: `hardware.profile` decides."

CACHED = "Latents and embeddings are always cached here, and every change is noticed."

OTHER: list[Row] = [
    *irrelevant("cache_latents cache_latents_to_disk skip_cache_check cache_info", CACHED),
    *irrelevant("xformers sdpa mem_eff_attn flash_attn sage_attn attn_mode split_attn highvram", HARDWARE),
    *base_rows("fp8_base fp8_base_unet fp8_scaled", switched("fp8")),
    *swap_rows("blocks_to_swap single_blocks_to_swap double_blocks_to_swap"),
    *offload_rows("cpu_offload_checkpointing"),
    *memory("full_fp16 full_bf16 torch_compile dynamo_backend fused_backward_pass"),
    *memory("lowram lowvram split_mode deepspeed offload_optimizer_device offload_param_device use_ramtorch"),
    *memory("fp16_master_weights_and_gradients"),
    *irrelevant("dynamo_mode dynamo_use_fullgraph dynamo_use_dynamic", "See `dynamo_backend`."),
    *irrelevant("zero_stage offload_optimizer_nvme_path offload_param_nvme_path", "It belongs to DeepSpeed."),
    *irrelevant("zero3_init_flag zero3_save_16bit_model", "It belongs to DeepSpeed."),
    *irrelevant("max_data_loader_n_workers persistent_data_loader_workers disable_mmap_load_safetensors", HARDWARE),
    *irrelevant("mem_eff_save t5xxl_device t5xxl_dtype num_cpu_threads_per_process num_machines multi_gpu", HARDWARE),
    *irrelevant("gpu_ids main_process_port extra_accelerate_launch_args ddp_timeout", HARDWARE),
    *irrelevant("ddp_gradient_as_bucket_view ddp_static_graph", HARDWARE),
    *irrelevant("output_dir", "Results lie in `.lora-assets/outputs/NAME/`."),
    *irrelevant("output_name", "The name of the project."),
    *irrelevant(
        "training_comment metadata_author metadata_description metadata_license", "Metadata come from the run."
    ),
    *irrelevant("metadata_tags metadata_title metadata_merged_from metadata_thumbnail", "Metadata come from the run."),
    *irrelevant("huggingface_repo_id huggingface_repo_type huggingface_path_in_repo async_upload", "We do not upload."),
    *irrelevant("huggingface_repo_visibility save_state_to_huggingface resume_from_huggingface", "We do not upload."),
    *irrelevant(
        "tokenizer_cache_dir config_file output_config console_log_level console_log_file",
        "It matters in the other program only.",
    ),
    *irrelevant(
        "console_log_simple debug_dataset show_timesteps show_timesteps_resolution dataset_class",
        "It matters in the other program only.",
    ),
    *irrelevant("use_safetensors", "We write .safetensors."),
    *irrelevant("dataset_config in_json", "Its keys are reported one by one."),
    *irrelevant("v2 sdxl model_type", "It is read to detect the family."),
    vae_row("vae"),
    vae_row("ae"),
    *text_encoder_rows(("clip_l", "clip_g", "t5xxl", "gemma2")),
    no("apply_t5_attn_mask", "T5's pads are not masked, as in diffusers' pipeline."),
    no("apply_lg_attn_mask", "CLIP's pads are not masked, as in diffusers' pipeline."),
    *[
        no(key, "Drop whole captions with `caption.dropout`.")
        for key in ("clip_l_dropout_rate", "clip_g_dropout_rate", "t5_dropout_rate")
    ],
    no("pos_emb_random_crop_rate", "Position embeddings are computed as in diffusers' pipeline."),
    no("enable_scaled_pos_embed", "Position embeddings are computed as in diffusers' pipeline."),
    *irrelevant("save_clip save_t5xxl", "Only the LoRA is written."),
    no("system_prompt", "The system prompt of Lumina 2 is that of diffusers' pipeline."),
    *irrelevant("use_flash_attn use_sage_attn sample_batch_size", HARDWARE),
    no("no_token_padding", "Captions are padded, as in diffusers' pipeline."),
    no("train_inpainting", "Inpainting bases are not trained here."),
    no("stop_text_encoder_training", "A text encoder is trained for the whole run or not at all."),
]
