"""Pixels to normalised latents, by diffusers' AutoencoderKL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def encode_normalised(vae: Any, pixels: Tensor, shift: float | None = None) -> Tensor:
    """Encode pixels [B, 3, H, W] in [-1, 1] by an AutoencoderKL: mode, minus its shift, times its scale; float32.

    `shift` replaces that of the VAE's config.
    """
    # Not `vae.device` and `vae.dtype`: diffusers walks all modules for each, 1 ms a picture.
    like: Tensor = next(vae.parameters())
    with torch.no_grad():
        mode = vae.encode(pixels.to(like.device, like.dtype)).latent_dist.mode().float()
    shift = vae.config.shift_factor or 0.0 if shift is None else shift
    return ((mode - shift) * vae.config.scaling_factor).contiguous()
