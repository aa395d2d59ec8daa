"""Builder of the tiny Sana pipeline."""

from __future__ import annotations

from pathlib import Path

from tests.tiny.gemma import gemma_tokenizer, tiny_gemma2
from tests.tiny.pipelines import _seeded


def build_sana(directory: Path, out_channels: int = 32, timestep_scale: float = 1.0) -> Path:
    """Save a tiny Sana pipeline; with 64 `out_channels` it predicts a variance that nobody reads."""
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    transformer = _seeded(
        SanaTransformer2DModel,
        patch_size=1,
        in_channels=32,
        out_channels=out_channels,
        timestep_scale=timestep_scale,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=32,
        sample_size=32,
    )
    widths = (8, 8, 8, 8, 16, 32)
    vae = _seeded(
        AutoencoderDC,
        in_channels=3,
        latent_channels=32,
        attention_head_dim=4,
        encoder_block_types=("ResBlock",) * 6,
        decoder_block_types=("ResBlock",) * 6,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_qkv_multiscales=((),) * 6,
        decoder_qkv_multiscales=((),) * 6,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        downsample_block_type="Conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=1000, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    tokenizer = gemma_tokenizer()
    pipeline = SanaPipeline(
        tokenizer=tokenizer, text_encoder=tiny_gemma2(tokenizer), vae=vae, transformer=transformer, scheduler=scheduler
    )
    pipeline.save_pretrained(directory)
    return directory
