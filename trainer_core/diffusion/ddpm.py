"""DDPM noise: x_t = sqrt(ac_t) * x0 + sqrt(1 - ac_t) * noise, with epsilon or v targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainer_core.diffusion.density import Density
from trainer_core.diffusion.weighting import Prediction, snr_weight
from trainer_core.errors import ModelError
from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Size, Tensor

    from trainer_core.config.groups import LossConfig, NoiseConfig

PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class DDPMSchedule:
    """Noise levels by a table; a timestep is an int64 index into it."""

    alphas_cumprod: Tensor
    """Share of the picture's variance left at each timestep: float32 [T], falling."""
    prediction: Prediction = "epsilon"
    density: Density = Density("uniform")
    _copies: dict[torch.device, Tensor] = field(default_factory=dict[Any, Any], repr=False, compare=False)

    def timesteps(self, u: Tensor, latents_shape: Size) -> Tensor:
        """Map u [B] in [0, 1) to int64 [B] in [0, T), within the range of timesteps; a larger u is noisier."""
        count, density = len(self.alphas_cumprod), self.density
        first = density.min_timestep * count // 1000
        last = -(-density.max_timestep * count // 1000) - 1
        return (density.shares(u) * count).long().clamp(first, max(first, last))

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

    def noise_share(self, timesteps: Tensor) -> Tensor:
        """Return t / T."""
        return timesteps.float() / len(self.alphas_cumprod)

    def snr(self, timesteps: Tensor) -> Tensor:
        """Return ac_t / (1 - ac_t) [B], float32; 0 at a zero terminal SNR."""
        kept = self._table(timesteps.device)[timesteps]
        return kept / (1.0 - kept)

    def weight(self, timesteps: Tensor, loss: LossConfig) -> Tensor:
        """Return the weights of `snr_weight` [B]; ones where the settings ask for none."""
        if not (loss.min_snr_gamma or loss.debiased):
            return torch.ones_like(timesteps, dtype=torch.float32)
        return snr_weight(self.snr(timesteps), self.prediction, loss)

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

    `noise.prediction` and `noise.zero_terminal_snr` go before the config.

    Raises:
        ModelError: The config asks for a prediction or a beta schedule that is not known here.
    """
    given = scheduler.get("prediction_type", "epsilon")
    prediction = given if noise.prediction == "auto" else noise.prediction
    if prediction not in PREDICTIONS:
        raise ModelError(
            f"scheduler/scheduler_config.json: prediction_type = {prediction}: wanted {' or '.join(PREDICTIONS)}. "
            "Use another base model."
        )
    betas = scheduler_betas(scheduler)
    if noise.zero_terminal_snr or scheduler.get("rescale_betas_zero_snr", False):
        betas = rescale_to_zero_snr(betas)
    return DDPMSchedule(
        alphas_cumprod=torch.cumprod(1.0 - betas, dim=0),
        prediction=prediction,
        density=Density.of(noise, "uniform"),
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
