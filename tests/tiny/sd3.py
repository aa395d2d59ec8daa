"""Tiny SD3 and SD3.5."""

from __future__ import annotations

from pathlib import Path

from tests.tiny.pipelines import _seeded, tiny_clip, tiny_t5, tiny_vae
from tests.tiny.tokenizers import clip_tokenizer, t5_tokenizer


def build_sd3(directory: Path, medium: bool = True) -> Path:
    """Save a tiny SD3.5 pipeline: `medium` has a second attention in its first block; otherwise SD3, without norms."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = _seeded(
        SD3Transformer2DModel,
        sample_size=16,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        # T5's width, at least that of both CLIPs together
        joint_attention_dim=96,
        pooled_projection_dim=80,
        pos_embed_max_size=24,
        qk_norm="rms_norm" if medium else None,
        dual_attention_layers=(0,) if medium else (),
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0),
        vae=tiny_vae(16, 1.5305, 0.0609, quant=False),
        text_encoder=tiny_clip(32, projected=True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=tiny_clip(48, act="gelu", projected=True),
        tokenizer_2=clip_tokenizer(pad_token="!"),
        text_encoder_3=tiny_t5(96),
        tokenizer_3=t5_tokenizer(),
    )
    pipeline.save_pretrained(directory)
    return directory
