"""Precision, device and config of a denoiser, whatever adapters, wrappers and quantised weights it carries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import nn


T = TypeVar("T")
MOST_REMEMBERED = 256
"""Shapes; a run with more buckets makes some of them anew."""


def dtype_of(denoiser: nn.Module) -> torch.dtype:
    """Return the precision of the frozen base, whatever adapters and 4- or 8-bit weights lie about in it."""
    frozen = (p.dtype for p in denoiser.parameters() if p.is_floating_point() and not p.requires_grad)
    return next(frozen, next(denoiser.parameters()).dtype)


def device_of(denoiser: nn.Module) -> torch.device:
    """Return where the denoiser is."""
    return next(denoiser.parameters()).device


def remembered(denoiser: Any, key: tuple[object, ...], make: Callable[[], T]) -> T:
    """Return what was made for a key, once for each denoiser: positions of tokens, which differ by shape alone.

    Kept on the denoiser, so that a plan's fake one never meets a real one's tensors. Do not change what it returns.
    """
    owner = getattr(denoiser, "module", denoiser)
    kept: dict[tuple[object, ...], Any] = owner.__dict__.setdefault("_lora_assets_remembered", {})
    if key not in kept:
        if len(kept) >= MOST_REMEMBERED:
            kept.clear()
        kept[key] = make()
    return kept[key]


def config_of(denoiser: Any) -> Mapping[str, Any]:
    """Return the denoiser's config, also through a wrapper for distributed training."""
    return getattr(denoiser, "module", denoiser).config
