"""Latents as rows of tokens, 2x2 latent pixels a token, for transformers that read them so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def pack(latents_BCHW: Tensor) -> Tensor:
    """Fold 2x2 patches into tokens [B, H/2 * W/2, C * 4], features in the order (channel, row, column)."""
    B, C, H, W = latents_BCHW.shape
    patches = latents_BCHW.reshape(B, C, H // 2, 2, W // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(B, (H // 2) * (W // 2), C * 4)


def unpack(tokens_BND: Tensor, height: int, width: int) -> Tensor:
    """Undo `pack` for latents of `height` x `width`."""
    B, _, D = tokens_BND.shape
    patches = tokens_BND.reshape(B, height // 2, width // 2, D // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(B, D // 4, height, width)


def grid_ids(height: int, width: int, device: torch.device) -> Tensor:
    """Return the position (0, row, column) of each packed token of latents `height` x `width`: [N, 3] float32."""
    rows, columns = torch.arange(height // 2, device=device), torch.arange(width // 2, device=device)
    grid = torch.cartesian_prod(rows, columns).reshape(-1, 2)
    return torch.cat([torch.zeros_like(grid[:, :1]), grid], dim=1).float()
