"""DDPM noise: x_t = sqrt(ac_t) * x0 + sqrt(1 - ac_t) * noise, with epsilon or v targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Size, Tensor

from trainer_core.diffusion.density import Sampling, chosen_sampling, noise_share
from trainer_core.errors import ModelError

if TYPE_CHECKING:
    from trainer_core.config.groups import NoiseConfig

Prediction = Literal["epsilon", "v_prediction"]
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class DDPMSchedule:
    """Noise levels by a table; a timestep is an int64 index into it."""

    alphas_cumprod: Tensor
    """Share of the picture's variance left at each timestep: float32 [T], falling."""
    prediction: Prediction = "epsilon"
    sampling: Sampling = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    _copies: dict[torch.device, Tensor] = field(default_factory=dict[torch.device, Tensor], repr=False, compare=False)

    def timesteps(self, u: Tensor, latents_shape: Size) -> Tensor:
        """Map u [B] in [0, 1) to int64 [B] in [0, T); a larger u is noisier."""
        count = len(self.alphas_cumprod)
        share = noise_share(u, self.sampling, self.logit_mean, self.logit_std)
        return (share * count).long().clamp(max=count - 1)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return x_t, float32."""
        signal, spread = self._scales(timesteps, latents.ndim)
        return signal * latents.float() + spread * noise.float()

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the noise, or v = sqrt(ac) * noise - sqrt(1 - ac) * latents (arXiv 2202.00512); float32."""
        if self.prediction == "epsilon":
            return noise.float()
        signal, spread = self._scales(timesteps, latents.ndim)
        return signal * noise.float() - spread * latents.float()

    def weight(self, timesteps: Tensor, min_snr_gamma: float) -> Tensor:
        """Return min-SNR weights [B] (arXiv 2303.09556), ones for gamma 0; finite where the SNR is 0.

        min(snr, gamma) / snr for epsilon, min(snr, gamma) / (snr + 1) for v.
        """
        if min_snr_gamma <= 0:
            return torch.ones_like(timesteps, dtype=torch.float32)
        kept = self._table(timesteps.device)[timesteps]
        snr = kept / (1.0 - kept)
        if self.prediction == "epsilon":
            # the same as min(snr, gamma) / snr, without 0/0 at a terminal SNR of 0
            return (min_snr_gamma / snr).clamp(max=1.0)
        return snr.clamp(max=min_snr_gamma) / (snr + 1.0)

    def _scales(self, timesteps: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
        kept = self._table(timesteps.device)[timesteps].reshape(-1, *[1] * (ndim - 1))
        return kept.sqrt(), (1.0 - kept).sqrt()

    def _table(self, device: torch.device) -> Tensor:
        # one copy a device: a transfer in every step would make the step wait for the GPU
        if device not in self._copies:
            self._copies[device] = self.alphas_cumprod.to(device)
        return self._copies[device]


def ddpm_schedule(scheduler: Mapping[str, Any], noise: NoiseConfig) -> DDPMSchedule:
    """Return the schedule that a base was trained with, from the config of whichever scheduler samples it.

    Raises:
        ModelError: The config asks for a prediction or a beta schedule that is not known here.
    """
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise ModelError(
            f"scheduler/scheduler_config.json: prediction_type = {prediction}: wanted {' or '.join(PREDICTIONS)}. "
            "Use another base model."
        )
    betas = scheduler_betas(scheduler)
    if scheduler.get("rescale_betas_zero_snr", False):
        betas = rescale_to_zero_snr(betas)
    return DDPMSchedule(
        alphas_cumprod=torch.cumprod(1.0 - betas, dim=0),
        prediction=prediction,
        sampling=chosen_sampling(noise.timestep_sampling, "uniform"),
        logit_mean=noise.logit_mean,
        logit_std=noise.logit_std,
    )


def scheduler_betas(scheduler: Mapping[str, Any]) -> Tensor:
    """Return the betas [T] float32 of a scheduler's config; defaults are those of diffusers' DDPMScheduler.

    Raises:
        ModelError: The beta schedule is unknown.
    """
    if scheduler.get("trained_betas") is not None:
        return torch.tensor(scheduler["trained_betas"], dtype=torch.float32)
    name = scheduler.get("beta_schedule", "linear")
    if name not in BETAS:
        known = ", ".join(BETAS)
        raise ModelError(
            f"scheduler/scheduler_config.json: beta_schedule = {name}: known are {known}. Use another base."
        )
    first, last = scheduler.get("beta_start", 0.0001), scheduler.get("beta_end", 0.02)
    return BETAS[name](first, last, scheduler.get("num_train_timesteps", 1000))


def rescale_to_zero_snr(betas: Tensor) -> Tensor:
    """Stretch betas [T] so that the last timestep is pure noise. Source: arXiv 2305.08891, algorithm 1."""
    roots = torch.cumprod(1.0 - betas, dim=0).sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    roots = (roots - last) * (first / (first - last))
    kept = roots**2
    return 1.0 - torch.cat([kept[:1], kept[1:] / kept[:-1]])


def _linear(first: float, last: float, count: int) -> Tensor:
    return torch.linspace(first, last, count, dtype=torch.float32)


def _scaled_linear(first: float, last: float, count: int) -> Tensor:
    return torch.linspace(first**0.5, last**0.5, count, dtype=torch.float32) ** 2


def _squared_cosine(first: float, last: float, count: int) -> Tensor:
    def kept(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    return torch.tensor([min(1 - kept((i + 1) / count) / kept(i / count), 0.999) for i in range(count)])


BETAS: Mapping[str, Callable[[float, float, int], Tensor]] = {
    "linear": _linear,
    "scaled_linear": _scaled_linear,
    "squaredcos_cap_v2": _squared_cosine,
}
