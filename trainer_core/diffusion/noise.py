"""Randomness as a function of what it is for, never of when it is drawn: any step can be computed again by itself."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor

SeedPart = int | str


def derive_seed(purpose: str, parts: tuple[SeedPart, ...]) -> int:
    """Return 64 bits that depend on the purpose and on every part; 1 and "1" differ, so do ("ab",) and ("a", "b").

    torch's CPU generator uses the lower 32 of them: of 100,000 draws about one has the numbers of another.
    """
    text = json.dumps([purpose, *parts], ensure_ascii=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def sample_noise(
    seed_parts: tuple[SeedPart, ...], shape: tuple[int, ...], noise_offset: float | Tensor = 0.0
) -> Tensor:
    """Return standard normal noise [C, h, w] float32 on the CPU, for one sample.

    Args:
        seed_parts: What the noise is for: seed, epoch, sample id, repeat ...
        shape: (C, h, w).
        noise_offset: Strength of one more normal number a channel, added to all its pixels: one for all channels, or
            [C, 1, 1]. The noise below it is the same as without.
    """
    generator = seeded("noise", seed_parts)
    noise = torch.randn(shape, generator=generator, dtype=torch.float32)
    if isinstance(noise_offset, float) and noise_offset == 0.0:
        return noise
    offset = torch.randn((shape[0], *[1] * (len(shape) - 1)), generator=generator, dtype=torch.float32)
    return noise + noise_offset * offset


def sample_u(seed_parts: tuple[SeedPart, ...]) -> Tensor:
    """Return a float32 scalar, uniform in [0, 1), that picks a timestep; independent of the noise of the same parts."""
    return torch.rand((), generator=seeded("u", seed_parts), dtype=torch.float32)


def seeded(purpose: str, parts: tuple[SeedPart, ...]) -> torch.Generator:
    """Return a generator of its own for a purpose: what it draws depends on nothing but the parts."""
    return torch.Generator().manual_seed(derive_seed(purpose, parts))
