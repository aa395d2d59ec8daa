"""Optimizers by name. A new optimizer is one row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainer_core.config.groups import OptimizerConfig


@dataclass(frozen=True)
class TrainedPart:
    """A model that carries an adapter: the denoiser, or a text encoder."""

    name: str
    """Component of the base: `unet`, `transformer`, `text_encoder` ..."""
    module: nn.Module
    parameters: Mapping[str, nn.Parameter]
    """What is trained, float32, by its name in the module."""
    lr: float
    """Peak learning rate."""


Build = Callable[[list[dict[str, Any]], OptimizerConfig, bool], torch.optim.Optimizer]


def _adamw(groups: list[dict[str, Any]], config: OptimizerConfig, scaled: bool) -> torch.optim.Optimizer:
    # The fused kernel updates all of a tensor in one pass; with a gradient scaler torch wants the plain one.
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=_betas(config),
        eps=config.eps or 1e-8,
        weight_decay=config.weight_decay,
        fused=not scaled,
    )


def _adamw8bit(groups: list[dict[str, Any]], config: OptimizerConfig, scaled: bool) -> torch.optim.Optimizer:
    from bitsandbytes.optim.adamw import AdamW8bit

    # Tensors below 4096 elements keep 32-bit moments: bitsandbytes' own rule.
    betas, eps = _betas(config), config.eps or 1e-8
    return AdamW8bit(groups, lr=config.lr, betas=betas, eps=eps, weight_decay=config.weight_decay)


def _betas(config: OptimizerConfig) -> tuple[float, float]:
    first, second = config.betas or (0.9, 0.999)
    return first, second


OPTIMIZERS: dict[str, Build] = {"adamw": _adamw, "adamw8bit": _adamw8bit}


def build_optimizer(parts: Sequence[TrainedPart], config: OptimizerConfig, scaled: bool) -> torch.optim.Optimizer:
    """Return the optimizer of the settings, with the peak rate of each group of parameters as its `peak_lr`.

    Args:
        parts: what is trained.
        config: name and arguments.
        scaled: gradients go through a scaler (fp16).
    """
    groups: list[dict[str, Any]] = [
        {"params": list(part.parameters.values()), "lr": part.lr, "peak_lr": part.lr} for part in parts
    ]
    return OPTIMIZERS[config.name](groups, config, scaled)
