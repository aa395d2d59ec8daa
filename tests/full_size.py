"""The published sizes of twelve base models, as the configs of folders without weights.

The numbers are those of the models' published `config.json` files, or the defaults of diffusers' and transformers'
classes, which are written after them. Nothing was downloaded: `parameters` of the model cards (in billions) is what a
test compares the built models with, and `unverified` marks figures that nothing here could confirm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Config = Mapping[str, Any]

CLIP_L: Config = {
    "model_type": "clip_text_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
}
CLIP_G: Config = {
    **CLIP_L,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
T5_XXL: Config = {
    "model_type": "t5",
    "d_model": 4096,
    "d_ff": 10240,
    "d_kv": 64,
    "num_layers": 24,
    "num_heads": 64,
    "vocab_size": 32128,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": False,
}
GEMMA_2B: Config = {
    "model_type": "gemma2",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 256000,
}
QWEN3_4B: Config = {
    "model_type": "qwen3",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
QWEN_VL_7B: Config = {
    "model_type": "qwen2_5_vl",
    "text_config": {
        "model_type": "qwen2_5_vl_text",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "model_type": "qwen2_5_vl",
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
}
MISTRAL_24B: Config = {
    "model_type": "mistral3",
    "text_config": {
        "model_type": "mistral",
        "hidden_size": 5120,
        "intermediate_size": 32768,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 131072,
    },
    "vision_config": {
        "model_type": "pixtral",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "head_dim": 64,
        "image_size": 1540,
        "patch_size": 14,
    },
}
DDPM: Config = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}
FLOW: Config = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}


def _kl_vae(channels: int, scaling: float, shift: float | None, quant_conv: bool) -> Config:
    return {
        "_class_name": "AutoencoderKL",
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "latent_channels": channels,
        "scaling_factor": scaling,
        "shift_factor": shift,
        "use_quant_conv": quant_conv,
        "use_post_quant_conv": quant_conv,
    }


FLUX_VAE = _kl_vae(16, 0.3611, 0.1159, quant_conv=False)


@dataclass(frozen=True)
class FullSize:
    """A base model's configs."""

    pipeline: str
    parameters: float
    """Of the denoiser, in billions, as its authors give them."""
    configs: Mapping[str, Config]
    unverified: tuple[str, ...] = field(default=())
    """What was written from memory and nothing here confirms."""


_QWEN_IMAGE: Config = {
    "_class_name": "QwenImageTransformer2DModel",
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 60,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 3584,
    "axes_dims_rope": [16, 56, 56],
}

MODELS: Mapping[str, FullSize] = {
    "sd15": FullSize(
        "StableDiffusionPipeline",
        0.86,
        {
            "unet": {
                "_class_name": "UNet2DConditionModel",
                "sample_size": 64,
                "block_out_channels": [320, 640, 1280, 1280],
                "cross_attention_dim": 768,
                "attention_head_dim": 8,
            },
            "vae": _kl_vae(4, 0.18215, None, quant_conv=True),
            "text_encoder": CLIP_L,
            "scheduler": DDPM,
        },
    ),
    "sdxl": FullSize(
        "StableDiffusionXLPipeline",
        2.57,
        {
            "unet": {
                "_class_name": "UNet2DConditionModel",
                "sample_size": 128,
                "block_out_channels": [320, 640, 1280],
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
                "transformer_layers_per_block": [1, 2, 10],
                "attention_head_dim": [5, 10, 20],
                "cross_attention_dim": 2048,
                "use_linear_projection": True,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
            },
            "vae": _kl_vae(4, 0.13025, None, quant_conv=True),
            "text_encoder": CLIP_L,
            "text_encoder_2": CLIP_G,
            "scheduler": DDPM,
        },
    ),
    "sd3": FullSize(
        "StableDiffusion3Pipeline",
        2.08,
        {
            "transformer": {
                "_class_name": "SD3Transformer2DModel",
                "sample_size": 128,
                "num_layers": 24,
                "num_attention_heads": 24,
                "attention_head_dim": 64,
                "caption_projection_dim": 1536,
                "joint_attention_dim": 4096,
                "pooled_projection_dim": 2048,
                "pos_embed_max_size": 192,
                "out_channels": 16,
            },
            "vae": _kl_vae(16, 1.5305, 0.0609, quant_conv=False),
            "text_encoder": CLIP_L,
            "text_encoder_2": CLIP_G,
            "text_encoder_3": T5_XXL,
            "scheduler": FLOW,
        },
    ),
    "flux1": FullSize(
        "FluxPipeline",
        11.9,
        {
            "transformer": {
                "_class_name": "FluxTransformer2DModel",
                "num_layers": 19,
                "num_single_layers": 38,
                "num_attention_heads": 24,
                "attention_head_dim": 128,
                "joint_attention_dim": 4096,
                "pooled_projection_dim": 768,
                "in_channels": 64,
                "guidance_embeds": True,
            },
            "vae": FLUX_VAE,
            "text_encoder": CLIP_L,
            "text_encoder_2": T5_XXL,
            "scheduler": FLOW,
        },
    ),
    "flux2": FullSize(
        "Flux2Pipeline",
        32.2,
        {
            "transformer": {
                "_class_name": "Flux2Transformer2DModel",
                "in_channels": 128,
                "num_layers": 8,
                "num_single_layers": 48,
                "num_attention_heads": 48,
                "attention_head_dim": 128,
                "joint_attention_dim": 15360,
                "timestep_guidance_channels": 256,
                "mlp_ratio": 3.0,
                "axes_dims_rope": [32, 32, 32, 32],
            },
            "vae": {"_class_name": "AutoencoderKLFlux2", "latent_channels": 32},
            "text_encoder": MISTRAL_24B,
            "scheduler": FLOW,
        },
        ("vae", "text_encoder.vision_config"),
    ),
    "chroma": FullSize(
        "ChromaPipeline",
        8.9,
        {
            "transformer": {
                "_class_name": "ChromaTransformer2DModel",
                "in_channels": 64,
                "num_layers": 19,
                "num_single_layers": 38,
                "num_attention_heads": 24,
                "attention_head_dim": 128,
                "joint_attention_dim": 4096,
                "approximator_num_channels": 64,
                "approximator_hidden_dim": 5120,
                "approximator_layers": 5,
            },
            "vae": FLUX_VAE,
            "text_encoder": T5_XXL,
            "scheduler": FLOW,
        },
    ),
    "qwen_image": FullSize(
        "QwenImagePipeline",
        20.4,
        {
            "transformer": _QWEN_IMAGE,
            "vae": {"_class_name": "AutoencoderKLQwenImage"},
            "text_encoder": QWEN_VL_7B,
            "scheduler": FLOW,
        },
        ("vae",),
    ),
    "qwen_image_edit": FullSize(
        "QwenImageEditPlusPipeline",
        20.4,
        {
            "transformer": _QWEN_IMAGE,
            "vae": {"_class_name": "AutoencoderKLQwenImage"},
            "text_encoder": QWEN_VL_7B,
            "scheduler": FLOW,
        },
        ("vae",),
    ),
    "kandinsky5": FullSize(
        "Kandinsky5T2IPipeline",
        6.0,
        {
            "transformer": {
                "_class_name": "Kandinsky5Transformer3DModel",
                "in_visual_dim": 16,
                "out_visual_dim": 16,
                "in_text_dim": 3584,
                "in_text_dim2": 768,
                "time_dim": 1024,
                "model_dim": 2560,
                "ff_dim": 10240,
                "num_text_blocks": 2,
                "num_visual_blocks": 50,
                "axes_dims": [32, 48, 48],
                "patch_size": [1, 2, 2],
            },
            "vae": FLUX_VAE,
            "text_encoder": QWEN_VL_7B,
            "text_encoder_2": CLIP_L,
            "scheduler": FLOW,
        },
        ("transformer.num_visual_blocks", "transformer.model_dim", "transformer.time_dim"),
    ),
    "z_image": FullSize(
        "ZImagePipeline",
        6.15,
        {
            "transformer": {
                "_class_name": "ZImageTransformer2DModel",
                "dim": 3840,
                "n_layers": 30,
                "n_refiner_layers": 2,
                "n_heads": 30,
                "n_kv_heads": 30,
                "cap_feat_dim": 2560,
                "in_channels": 16,
                "axes_dims": [32, 48, 48],
                "axes_lens": [1024, 512, 512],
            },
            "vae": FLUX_VAE,
            "text_encoder": QWEN3_4B,
            "scheduler": FLOW,
        },
    ),
    "sana": FullSize(
        "SanaPipeline",
        1.6,
        {
            "transformer": {
                "_class_name": "SanaTransformer2DModel",
                "in_channels": 32,
                "out_channels": 32,
                "num_attention_heads": 70,
                "attention_head_dim": 32,
                "num_layers": 20,
                "num_cross_attention_heads": 20,
                "cross_attention_head_dim": 112,
                "cross_attention_dim": 2240,
                "caption_channels": 2304,
                "mlp_ratio": 2.5,
                "sample_size": 32,
                "patch_size": 1,
            },
            "vae": {
                "_class_name": "AutoencoderDC",
                "latent_channels": 32,
                "encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
                "decoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
                "encoder_layers_per_block": [2, 2, 2, 3, 3, 3],
                "decoder_layers_per_block": [3, 3, 3, 3, 3, 3],
                "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
                "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
                "encoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
                "decoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
                "downsample_block_type": "Conv",
                "upsample_block_type": "interpolate",
                "decoder_norm_types": "rms_norm",
                "decoder_act_fns": "silu",
                "scaling_factor": 0.41407,
            },
            "text_encoder": GEMMA_2B,
            "scheduler": FLOW,
        },
    ),
    "lumina2": FullSize(
        "Lumina2Pipeline",
        2.61,
        {
            "transformer": {
                "_class_name": "Lumina2Transformer2DModel",
                "sample_size": 128,
                "in_channels": 16,
                "hidden_size": 2304,
                "num_layers": 26,
                "num_refiner_layers": 2,
                "num_attention_heads": 24,
                "num_kv_heads": 8,
                "multiple_of": 256,
                "cap_feat_dim": 2304,
                "axes_dim_rope": [32, 32, 32],
                "axes_lens": [300, 512, 512],
            },
            "vae": FLUX_VAE,
            "text_encoder": GEMMA_2B,
            "scheduler": FLOW,
        },
    ),
}


def write_configs(name: str, folder: Path) -> Path:
    """Write a model's configs as a folder in diffusers' layout, without weights and tokenizers; return it."""
    model = MODELS[name]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": model.pipeline}), encoding="utf-8")
    for component, config in model.configs.items():
        (folder / component).mkdir(exist_ok=True)
        file = "scheduler_config.json" if component == "scheduler" else "config.json"
        (folder / component / file).write_text(json.dumps(config), encoding="utf-8")
    return folder
