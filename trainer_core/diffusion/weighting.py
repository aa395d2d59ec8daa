"""How much each noise level counts, and where Huber losses turn from square to linear, by the signal-to-noise ratio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.config.groups import LossConfig
    from trainer_core.diffusion.schedule import NoiseSchedule

Prediction = Literal["epsilon", "v_prediction"]
SNR_RANGE = (1e-5, 1e3)
"""Range of ratios for debiased estimation: outside it the weights would be infinite or 0."""


def snr_weight(snr: Tensor, prediction: Prediction, loss: LossConfig) -> Tensor:
    """Return the loss weights [B] float32 of diffusion's noise levels; several settings multiply.

    Min-SNR: min(snr, gamma) over snr for epsilon, over snr + 1 for v (arXiv 2303.09556); soft, the minimum becomes
    snr * gamma / (snr + gamma) (arXiv 2401.11605). Debiased: 1 / sqrt(snr) for epsilon, 1 / (snr + 1) for v
    (arXiv 2310.08442, and kohya's form for v).

    Args:
        snr: signal-to-noise ratios [B] float32; where they are 0, weights stay finite.
        prediction: what the denoiser predicts.
        loss: `min_snr_gamma` (0 turns it off), `soft_min_snr` and `debiased`.
    """
    weight = torch.ones_like(snr)
    if loss.min_snr_gamma > 0:
        weight = _min_snr(snr, prediction, loss.min_snr_gamma, loss.soft_min_snr)
    if loss.debiased:
        kept = snr.clamp(*SNR_RANGE)
        weight = weight * (kept.rsqrt() if prediction == "epsilon" else 1.0 / (kept + 1.0))
    return weight


def _min_snr(snr: Tensor, prediction: Prediction, gamma: float, soft: bool) -> Tensor:
    # of epsilon the ratio to snr is written out, without 0/0 at a terminal SNR of 0
    if soft:
        weight = gamma / (snr + gamma)
        return weight if prediction == "epsilon" else snr * weight / (snr + 1.0)
    if prediction == "epsilon":
        return (gamma / snr).clamp(max=1.0)
    return snr.clamp(max=gamma) / (snr + 1.0)


def huber_thresholds(schedule: NoiseSchedule, timesteps: Tensor, loss: LossConfig) -> Tensor:
    """Return the error [B] float32 at which Huber losses turn from square to linear (arXiv 2403.16728).

    Constant: c. Exponential: c^(share of noise), from 1 at no noise to c at nothing but noise. SNR: (1 - c) / (1 + s)^2
    + c, with s = 1 / sqrt(snr), which for flow matching is sigma / (1 - sigma).
    """
    c = loss.huber_c
    if loss.huber_schedule == "constant":
        return torch.full_like(timesteps, c, dtype=torch.float32)
    if loss.huber_schedule == "exponential":
        return c ** schedule.noise_share(timesteps)
    # a ratio of 0 makes s infinite, and the threshold c
    return (1.0 - c) / (1.0 + schedule.snr(timesteps).rsqrt()).square() + c
