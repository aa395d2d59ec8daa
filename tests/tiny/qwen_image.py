"""Builders of tiny Qwen-Image and Qwen-Image-Edit pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny.pipelines import _seeded
from tests.tiny.qwen_vl import qwen_processor, qwen_tokenizer, qwen_vl, save_as_on_the_hub


def build_qwen_image(directory: Path) -> Path:
    """Save a tiny Qwen-Image pipeline."""
    from diffusers import QwenImagePipeline

    QwenImagePipeline(**_parts(qwen_tokenizer())).save_pretrained(directory)
    return directory


def _parts(tokenizer: Any, **transformer: Any) -> dict[str, Any]:
    """Return the components that all pipelines have; the means and deviations of the latents are the real ones."""
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel

    vae = _seeded(
        AutoencoderKLQwenImage,
        base_dim=8,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[False, True, True],
    )
    denoiser = _seeded(
        QwenImageTransformer2DModel,
        patch_size=2,
        in_channels=64,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
        **transformer,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=1.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=0.9,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        shift_terminal=0.02,
        time_shift_type="exponential",
    )
    return {
        "vae": vae,
        "text_encoder": qwen_vl(tokenizer),
        "tokenizer": tokenizer,
        "transformer": denoiser,
        "scheduler": scheduler,
    }


def build_qwen_image_edit(directory: Path, plus: bool = True, zero_cond_t: bool = False) -> Path:
    """Save a tiny Qwen-Image-Edit pipeline: 2509 or (with `zero_cond_t`) 2511, or the first one if not `plus`."""
    from diffusers import QwenImageEditPipeline, QwenImageEditPlusPipeline

    tokenizer = qwen_tokenizer()
    parts = _parts(tokenizer, zero_cond_t=zero_cond_t) | {"processor": qwen_processor(tokenizer)}
    pipeline = (QwenImageEditPlusPipeline if plus else QwenImageEditPipeline)(**parts)
    return save_as_on_the_hub(pipeline, directory, "processor")
