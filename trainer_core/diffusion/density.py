"""Which noise levels are trained: from a uniform number to a share of noise, by the inverse of a distribution's CDF."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from trainer_core.diffusion.shift import shift_sigma, unshift_sigma
from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.config.groups import NoiseConfig

Sampling = Literal["uniform", "logit_normal", "sigmoid", "mode", "cosmap"]

_STEP = 2.0**-24
"""Distance of float32 numbers just below 1: keeps u off the ends, where the inverse CDF is infinite."""
_FINE_STEP = 2.0**-53
"""The same for float64."""


@dataclass(frozen=True)
class Density:
    """A distribution of noise levels, cut off at both ends."""

    sampling: Sampling = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    min_timestep: int = 0
    """Least noise, in thousandths."""
    max_timestep: int = 1000
    """Most noise, in thousandths."""

    @classmethod
    def of(cls, noise: NoiseConfig, auto: Sampling) -> Density:
        """Return the settings' distribution; `auto` is the family's own."""
        return cls(
            auto if noise.timestep_sampling == "auto" else noise.timestep_sampling,
            noise.logit_mean,
            noise.logit_std,
            noise.mode_scale,
            noise.min_timestep,
            noise.max_timestep,
        )

    def shares(self, u: Tensor, shift: float = 1.0) -> Tensor:
        """Map u [B], uniform in [0, 1), to shares of noise [B] in (0, 1], float32, increasing in u.

        The distribution is shifted by the factor `shift` (`shift_sigma`) and then cut to the range of timesteps: u runs
        over the part of its CDF that lies inside, so no draw is lost and none piles up at an edge.
        """
        levels = DISTRIBUTIONS[self.sampling]
        if self.min_timestep <= 0 and self.max_timestep >= 1000:
            inner = u.float().clamp(_STEP, 1.0 - _STEP)
            return shift_sigma(levels.inverse(inner, self), shift).clamp(max=1.0)
        lowest, highest = self.min_timestep / 1000, self.max_timestep / 1000
        first, last = (levels.cdf(unshift_sigma(edge, shift), self) for edge in (lowest, highest))
        # float64: the range may lie in a tail, where float32 has few numbers
        inner = (first + u.double() * (last - first)).clamp(_FINE_STEP, 1.0 - _FINE_STEP)
        return shift_sigma(levels.inverse(inner, self), shift).float().clamp(lowest, highest)


class _Distribution(NamedTuple):
    inverse: Callable[[Tensor, Density], Tensor]
    """(u in (0, 1), parameters) -> share of noise."""
    cdf: Callable[[float, Density], float]
    """(share of noise in [0, 1], parameters) -> probability of at most that."""


def _uniform(u: Tensor, density: Density) -> Tensor:
    return u


def _uniform_cdf(share: float, density: Density) -> float:
    return share


def _logit_normal(u: Tensor, density: Density) -> Tensor:
    """sigmoid(mean + std * N(0, 1)): a mean above 0 gives more noise. Source: SD3, arXiv 2403.03206."""
    return torch.sigmoid(density.logit_mean + density.logit_std * torch.special.ndtri(u))


def _logit_normal_cdf(share: float, density: Density) -> float:
    return _normal_cdf(share, density.logit_mean, density.logit_std)


def _sigmoid(u: Tensor, density: Density) -> Tensor:
    return torch.sigmoid(density.logit_std * torch.special.ndtri(u))


def _sigmoid_cdf(share: float, density: Density) -> float:
    return _normal_cdf(share, 0.0, density.logit_std)


def _normal_cdf(share: float, mean: float, std: float) -> float:
    if not 0.0 < share < 1.0:
        return float(share >= 1.0)
    return 0.5 * math.erfc((mean - math.log(share / (1.0 - share))) / std / math.sqrt(2.0))


def _mode(u: Tensor, density: Density) -> Tensor:
    """SD3's heavy-tailed mode sampling, arXiv 2403.03206, with 1 - u for u so that it rises."""
    scale = density.mode_scale
    return (1.0 + scale) * u - scale * torch.sin(math.pi / 2 * u).square()


def _mode_cdf(share: float, density: Density) -> float:
    """Invert `_mode` by bisection: it rises for all scales that the settings allow."""
    scale, low, high = density.mode_scale, 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        found = (1.0 + scale) * middle - scale * math.sin(math.pi / 2 * middle) ** 2
        low, high = (middle, high) if found < share else (low, middle)
    return (low + high) / 2


def _cosmap(u: Tensor, density: Density) -> Tensor:
    """SD3's 1 - 1 / (tan(pi/2 * u) + 1), arXiv 2403.03206: the density is 2 / (pi * (1 - 2s + 2s^2))."""
    angle = math.pi / 2 * u
    return torch.sin(angle) / (torch.sin(angle) + torch.cos(angle))


def _cosmap_cdf(share: float, density: Density) -> float:
    return 2.0 / math.pi * math.atan2(share, 1.0 - share)


DISTRIBUTIONS: Mapping[Sampling, _Distribution] = {
    "uniform": _Distribution(_uniform, _uniform_cdf),
    "logit_normal": _Distribution(_logit_normal, _logit_normal_cdf),
    "sigmoid": _Distribution(_sigmoid, _sigmoid_cdf),
    "mode": _Distribution(_mode, _mode_cdf),
    "cosmap": _Distribution(_cosmap, _cosmap_cdf),
}
