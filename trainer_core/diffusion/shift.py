"""Shifts of flow matching's noise levels: larger pictures need more noise to be destroyed as much."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Size, Tensor


def shift_sigma(sigma: Tensor, factor: float) -> Tensor:
    """Shift sigma in (0, 1] towards noise by `factor` k: k*s / (1 + (k-1)*s). Source: SD3, arXiv 2403.03206."""
    return factor * sigma / (1.0 + (factor - 1.0) * sigma)


def unshift_sigma(sigma: float, factor: float) -> float:
    """Return the number that `shift_sigma` moves to `sigma`."""
    return sigma / (factor - (factor - 1.0) * sigma)


@dataclass(frozen=True)
class StaticShift:
    """The same factor for every picture; 1 shifts nothing."""

    value: float

    def factor(self, latents_shape: Size) -> float:
        """Return the factor k."""
        return self.value


@dataclass(frozen=True)
class TokenShift:
    """k = exp(mu), with mu linear in the number of tokens that the transformer sees. Source: FLUX.1's `time_shift`.

    The defaults are FLUX.1's own numbers.
    """

    base_shift: float = 0.5
    max_shift: float = 1.15
    base_tokens: int = 256
    max_tokens: int = 4096
    patch: int = field(kw_only=True)
    """Side of the square of latent pixels that makes one token."""

    def mu(self, tokens: int) -> float:
        """Return mu for a picture of so many packed tokens."""
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return self.base_shift + slope * (tokens - self.base_tokens)

    def factor(self, latents_shape: Size) -> float:
        """Return the factor k for latents [B, C, h, w], before packing."""
        height, width = latents_shape[-2:]
        return math.exp(self.mu((height // self.patch) * (width // self.patch)))
