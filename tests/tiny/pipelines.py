"""Builders of the tiny pipelines, one a family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny.tokenizers import CLIP_BOS, CLIP_EOS, CLIP_VOCABULARY, T5_VOCABULARY, clip_tokenizer, t5_tokenizer


def _seeded(build: Any, **config: Any) -> Any:
    """Build a module with the same weights every time, without touching the caller's generator."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(**config).eval()


def tiny_vae(latent_channels: int, scaling: float, shift: float | None = None, quant: bool = True) -> Any:
    """Return an AutoencoderKL of factor 8."""
    from diffusers import AutoencoderKL

    config: dict[str, Any] = {} if shift is None else {"shift_factor": shift}
    return _seeded(
        AutoencoderKL,
        in_channels=3,
        out_channels=3,
        latent_channels=latent_channels,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=64,
        scaling_factor=scaling,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
        **config,
    )


def tiny_clip(hidden: int = 32, layers: int = 3, act: str = "quick_gelu", projected: bool = False) -> Any:
    """Return a CLIP text encoder; with `projected` the class that has a text projection."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=CLIP_VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=CLIP_BOS,
        eos_token_id=CLIP_EOS,
        pad_token_id=CLIP_EOS,
        projection_dim=hidden,
        hidden_act=act,
    )
    return _seeded(CLIPTextModelWithProjection if projected else CLIPTextModel, config=config)


def tiny_t5(width: int = 32) -> Any:
    """Return a T5 encoder (gated GELU and dropout 0.1, as the real one)."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=T5_VOCABULARY,
        d_model=width,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=8,
        dropout_rate=0.1,
        tie_word_embeddings=False,
        is_encoder_decoder=True,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return _seeded(T5EncoderModel, config=config)


DDPM_BETAS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}


def build_sd15(directory: Path, prediction_type: str = "epsilon", rescale_betas_zero_snr: bool = False) -> Path:
    """Save a tiny Stable Diffusion 1.5 pipeline."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    unet = _seeded(
        UNet2DConditionModel,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    scheduler = DDIMScheduler(
        **DDPM_BETAS,
        set_alpha_to_one=False,
        clip_sample=False,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=rescale_betas_zero_snr,
    )
    pipeline = StableDiffusionPipeline(
        vae=tiny_vae(4, 0.18215),
        text_encoder=tiny_clip(),
        tokenizer=clip_tokenizer(),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(directory)
    return directory


def build_sdxl(directory: Path) -> Path:
    """Save a tiny SDXL pipeline; its second tokenizer pads with `!`, as the real one does."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    unet = _seeded(
        UNet2DConditionModel,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=64 + 6 * 8,
        cross_attention_dim=96,
        norm_num_groups=8,
    )
    vae = tiny_vae(4, 0.13025)
    vae.register_to_config(force_upcast=True)
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=tiny_clip(),
        text_encoder_2=tiny_clip(64, act="gelu", projected=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(pad_token="!"),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**DDPM_BETAS, timestep_spacing="leading", interpolation_type="linear"),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.save_pretrained(directory)
    return directory


def build_flux1(directory: Path, guidance_embeds: bool = True) -> Path:
    """Save a tiny FLUX.1 pipeline: `guidance_embeds` is true for dev, false for schnell (which also does not shift)."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer = _seeded(
        FluxTransformer2DModel,
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=3.0 if guidance_embeds else 1.0,
        use_dynamic_shifting=guidance_embeds,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
    pipeline = FluxPipeline(
        scheduler=scheduler,
        vae=tiny_vae(16, 0.3611, 0.1159, quant=False),
        text_encoder=tiny_clip(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=tiny_t5(),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    )
    pipeline.save_pretrained(directory)
    return directory
