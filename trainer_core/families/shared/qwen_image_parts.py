"""What Qwen-Image and Qwen-Image-Edit share: components, LoRA targets, latents and the call of the transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer_core.families.shared import denoisers, packing
from trainer_core.families.spec import ComponentSpec, LoraNames
from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainer_core.types import Conditioning

_BLOCK = r"transformer_blocks\.\d+\."
_ATTENTION = r"attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
_MLP = r"(img|txt)_mlp\.net\.(0\.proj|2)"
_MODULATION = r"(img|txt)_mod\.1"
MODULATION = _BLOCK + _MODULATION

TARGETS: Mapping[str, str] = {
    "attention": f"{_BLOCK}{_ATTENTION}",
    "attention+mlp": f"{_BLOCK}({_ATTENTION}|{_MLP})",
    "all-linear": f"{_BLOCK}({_ATTENTION}|{_MLP})",
    "all-linear+modulation": f"{_BLOCK}({_ATTENTION}|{_MLP}|{_MODULATION})",
}
COMPONENTS: Mapping[str, ComponentSpec] = {
    "vae": ComponentSpec("model", "diffusers", "AutoencoderKLQwenImage"),
    "text_encoder": ComponentSpec("model", "transformers", "Qwen2_5_VLForConditionalGeneration"),
    "tokenizer": ComponentSpec("tokenizer", "transformers", "Qwen2Tokenizer"),
    "transformer": ComponentSpec("model", "diffusers", "QwenImageTransformer2DModel"),
    "scheduler": ComponentSpec("scheduler", "diffusers", ""),
}
FILE_HAS = ("txt_norm.weight", "transformer_blocks.0.img_mod.1.weight", "transformer_blocks.0.txt_mod.1.weight")

LORA = LoraNames(
    architecture="Qwen-Image",
    network_module="networks.lora_qwen_image",
    diffusers_reads=("peft", "kohya", "original"),
)


def encode_latents(vae: Any, pixels: Tensor) -> Tensor:
    """Return latents [B, 16, H/8, W/8]: the mode, minus the mean of its channel, divided by its deviation; float32.

    The VAE is one for videos: a picture is a video of one frame.
    """
    like: Tensor = next(vae.parameters())
    with torch.no_grad():
        mode = vae.encode(pixels.to(like.device, like.dtype)[:, :, None]).latent_dist.mode()[:, :, 0].float()
    mean, deviation = (
        torch.tensor(numbers, device=mode.device)[:, None, None]
        for numbers in (vae.config.latents_mean, vae.config.latents_std)
    )
    return ((mode - mean) / deviation).contiguous()


def predict(denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, given: Conditioning) -> Tensor:
    """Run the transformer at time sigma (it multiplies by 1000 itself); control pictures follow the noisy tokens.

    A picture's number in the sequence is the frame of its positions, so pictures may differ in size.
    """
    dtype, device = denoisers.dtype_of(denoiser), denoisers.device_of(denoiser)
    pictures = [picture.to(device, dtype) for picture in (noisy, *given.controls)]
    shapes = [(1, picture.shape[-2] // 2, picture.shape[-1] // 2) for picture in pictures]
    height, width = noisy.shape[-2:]
    tokens = denoiser(
        hidden_states=torch.cat([packing.pack(picture) for picture in pictures], dim=1),
        timestep=timesteps.to(device),
        encoder_hidden_states=given.text.embeds.to(device, dtype),
        encoder_hidden_states_mask=None if given.text.mask is None else given.text.mask.to(device),
        img_shapes=[shapes] * len(noisy),
        return_dict=False,
    )[0]
    return packing.unpack(tokens[:, : shapes[0][1] * shapes[0][2]], height, width)
