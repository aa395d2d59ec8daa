"""Precision, device and config of a denoiser, whatever adapters, wrappers and quantised weights it carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


def dtype_of(denoiser: nn.Module) -> torch.dtype:
    """Return the precision of the frozen base, whatever adapters and 4- or 8-bit weights lie about in it."""
    frozen = (p.dtype for p in denoiser.parameters() if p.is_floating_point() and not p.requires_grad)
    return next(frozen, next(denoiser.parameters()).dtype)


def device_of(denoiser: nn.Module) -> torch.device:
    """Return where the denoiser is."""
    return next(denoiser.parameters()).device


def config_of(denoiser: Any) -> Mapping[str, Any]:
    """Return the denoiser's config, also through a wrapper for distributed training."""
    return getattr(denoiser, "module", denoiser).config
