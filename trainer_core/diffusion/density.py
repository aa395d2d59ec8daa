"""Which noise levels are trained: from a uniform number to a share of noise, by the inverse of a distribution's CDF."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Sampling = Literal["uniform", "logit_normal"]

_STEP = 2.0**-24
"""Distance of float32 numbers just below 1: keeps u off the ends, where the inverse CDF is infinite."""


def noise_share(u: Tensor, sampling: Sampling, mean: float, std: float) -> Tensor:
    """Map u [B], uniform in [0, 1), to shares of noise [B] in (0, 1), float32, increasing in u.

    `logit_normal` is sigmoid(mean + std * N(0, 1)) (SD3, arXiv 2403.03206); a mean above 0 gives more noise.
    """
    inner = u.float().clamp(_STEP, 1.0 - _STEP)
    if sampling == "uniform":
        return inner
    return torch.sigmoid(mean + std * torch.special.ndtri(inner))


def chosen_sampling(setting: Literal["auto", "uniform", "logit_normal"], auto: Sampling) -> Sampling:
    """Resolve `auto` to the family's own distribution."""
    return auto if setting == "auto" else setting
