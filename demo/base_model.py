"""The demo base model: Stable Diffusion 1.5 in miniature, made of the real diffusers classes.

One picture of 64 x 64 pixels is 16 x 16 x 4 latents (three VAE levels, factor 4). The UNet keeps
the SD1.5 layout: cross attention on every level but the lowest, and in the middle.
"""

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from demo.tokenizer import MAX_LENGTH, build_tokenizer

VAE_FACTOR = 4
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
    """Pixels (B, 3, H, W) in [-1, 1] to latents (B, 4, H/4, W/4)."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=NATIVE_SIZE,
        scaling_factor=1.0,  # measured after training, by balance_latents
    )


@torch.no_grad()
def balance_latents(vae: AutoencoderKL, pixels: Tensor) -> None:
    """Give the latent channels one deviation and no offset, without changing any picture.

    A short training leaves a channel of brightness six times stronger than one of colour, and
    noise would drown the weak one first. The change is folded into the 1x1 convolutions either
    side of the latents; then `scaling_factor` is one over the deviation, measured on `pixels`
    (B, 3, H, W).
    """
    latents = vae.encode(pixels).latent_dist.mode()
    offset, deviation, overall = latents.mean((0, 2, 3)), latents.std((0, 2, 3)), latents.std()
    gain = overall / deviation
    before, after = vae.quant_conv, vae.post_quant_conv
    assert before is not None and after is not None
    means, logvars = slice(0, 4), slice(4, 8)
    before.weight[means] *= gain.view(-1, 1, 1, 1)
    before.bias[means] = (before.bias[means] - offset) * gain
    before.bias[logvars] += 2 * gain.log()
    after.bias += after.weight[:, :, 0, 0] @ offset
    after.weight /= gain.view(1, -1, 1, 1)
    scale = 1 / float(vae.encode(pixels).latent_dist.mode().std())
    vae.register_to_config(scaling_factor=round(scale, 5))


def build_unet() -> UNet2DConditionModel:
    """Predict v from noised latents (B, 4, h, w), time [B] and text (B, 77, 128)."""
    return UNet2DConditionModel(
        sample_size=NATIVE_SIZE // VAE_FACTOR,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(48, 96, 160),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(1, 2, 4),  # in this class: the number of heads
        norm_num_groups=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Token ids (B, 77) to text (B, 77, 128), after the final layer norm."""
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
    """SD1.5's noise levels with v-prediction, which settles flat backgrounds early."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
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
