"""The demo base model: Stable Diffusion 1.5 in miniature, made of the real diffusers classes.

One picture of 64 x 64 pixels is 16 x 16 x 12 latents (three VAE levels, factor 4).
"""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from demo.tokenizer import MAX_LENGTH, build_tokenizer

VAE_FACTOR = 4
LATENTS = 12
TEXT_WIDTH = 128
NATIVE_SIZE = 64


@dataclass(frozen=True)
class BaseModel:
    """The parts of the pipeline, in float32."""

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler


def build_vae() -> AutoencoderKL:
    """Pixels (B, 3, H, W) in [-1, 1] to latents (B, 12, H/4, W/4); `demo.encoder` computes its encoder."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENTS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=NATIVE_SIZE,
        scaling_factor=1.0,  # measured by `demo.encoder`
    )
    for name, parameter in vae.decoder.named_parameters():
        if ".conv2." in name:  # every residual block begins as nothing
            nn.init.zeros_(parameter)
    return vae


def build_unet() -> UNet2DConditionModel:
    """Predict v from noised latents (B, 12, h, w), time [B] and text (B, 32, 128).

    Attention is where the picture is 8 x 8 and 4 x 4. The whole text, pooled, is added to the time and
    scales every residual block (`addition_embed_type`), so that a colour or a number is learned at once.
    """
    return UNet2DConditionModel(
        sample_size=NATIVE_SIZE // VAE_FACTOR,
        in_channels=LATENTS,
        out_channels=LATENTS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 96, 128),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(2, 2, 4),  # in this class: the number of heads
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Token ids (B, 32) to text (B, 32, 128), after the final layer norm."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModel(config)
    # CLIP's initial 0.02 suits millions of captions; a few thousand steps need words that differ
    # from the start. Words never trained (the spare ones) keep this length.
    nn.init.normal_(encoder.get_input_embeddings().weight, std=0.1)
    return encoder


def build_scheduler() -> DDIMScheduler:
    """Noise levels that end in nothing but noise (zero terminal SNR), with v-prediction.

    At SD1.5's last level latents this small still show where a shape is, and no word for a place is ever learned.
    """
    return DDIMScheduler(
        beta_start=0.0001,
        beta_end=0.02,
        beta_schedule="linear",
        num_train_timesteps=1000,
        clip_sample=False,
        set_alpha_to_one=True,
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


def build_base_model(seed: int = 0) -> BaseModel:
    """Build every part with random weights."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    return BaseModel(
        vae=build_vae(),
        text_encoder=build_text_encoder(tokenizer),
        unet=build_unet(),
        tokenizer=tokenizer,
        scheduler=build_scheduler(),
    )


def to_pipeline(model: BaseModel) -> StableDiffusionPipeline:
    """Assemble the diffusers pipeline, without a safety checker."""
    return StableDiffusionPipeline(
        vae=model.vae.eval(),
        text_encoder=model.text_encoder.eval(),
        tokenizer=model.tokenizer,
        unet=model.unet.eval(),
        scheduler=model.scheduler,
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
