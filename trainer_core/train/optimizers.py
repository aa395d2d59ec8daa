"""Optimizers by name. A new optimizer is one row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from trainer_core.config.groups import OptimizerConfig

Build = Callable[[list[nn.Parameter], OptimizerConfig, bool], torch.optim.Optimizer]


def _adamw(parameters: list[nn.Parameter], config: OptimizerConfig, scaled: bool) -> torch.optim.Optimizer:
    # The fused kernel updates all of a tensor in one pass; with a gradient scaler torch wants the plain one.
    return torch.optim.AdamW(
        parameters,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=not scaled,
    )


def _adamw8bit(parameters: list[nn.Parameter], config: OptimizerConfig, scaled: bool) -> torch.optim.Optimizer:
    from bitsandbytes.optim.adamw import AdamW8bit

    # Tensors below 4096 elements keep 32-bit moments: bitsandbytes' own rule.
    return AdamW8bit(parameters, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay)


OPTIMIZERS: dict[str, Build] = {"adamw": _adamw, "adamw8bit": _adamw8bit}


def build_optimizer(parameters: list[nn.Parameter], config: OptimizerConfig, scaled: bool) -> torch.optim.Optimizer:
    """Return the optimizer of the settings.

    Args:
        parameters: float32 LoRA parameters.
        config: name and rates.
        scaled: gradients go through a scaler (fp16).
    """
    return OPTIMIZERS[config.name](parameters, config, scaled)
