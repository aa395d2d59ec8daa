"""Optimizers over the trained parts, built by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainer_core.config.groups import OptimizerConfig
from trainer_core.errors import ConfigError
from trainer_core.train.optim.findings import arguments, check_optimizer, optimizer_class
from trainer_core.types import Finding

_UP = re.compile(r"(?:.*\.)?(?:lora_B|lora_embedding_B|lora_up|hada_w2_a|lokr_w2|lokr_w2_b|a2|b2)(?:\.\w+)*")
"""Factors that start at zero, by their names in PEFT and LyCORIS: those that LoRA+ trains faster."""


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


def is_up_matrix(name: str) -> bool:
    """Whether a parameter is the factor of an adapter that starts at zero (B of LoRA)."""
    return _UP.fullmatch(name) is not None


def build_optimizer(parts: Sequence[TrainedPart], config: OptimizerConfig, scaled: bool) -> torch.optim.Optimizer:
    """Return the optimizer of the settings, with the peak rate of each group of parameters as its `peak_lr`.

    Args:
        parts: what is trained.
        config: name and arguments.
        scaled: gradients go through a scaler (fp16).

    Raises:
        ConfigError: the name or an argument is wrong, or LoRA+ has nothing to work on.
    """
    if problems := [finding for finding in check_optimizer(config) if finding.level == "error"]:
        raise ConfigError(problems)
    groups = [group for part in parts for group in _groups(part, config.lora_plus_ratio)]
    cls = optimizer_class(config)
    return cls(groups, **arguments(cls, config, scaled))


def effective_lr(optimizer: Any) -> float:
    """Return the rate of the first group as it acts: D-Adaptation and Prodigy multiply theirs by their estimate d."""
    group = optimizer.param_groups[0]
    return float(group["lr"]) * float(group.get("d", 1.0)) / float(group.get("g0_norm") or 1.0)


def _groups(part: TrainedPart, ratio: float) -> list[dict[str, Any]]:
    """Return the part's parameters, and with LoRA+ the up matrices apart. Source: arXiv 2402.12354."""
    if ratio == 1.0:
        return [{"params": list(part.parameters.values()), "lr": part.lr, "peak_lr": part.lr}]
    up = [parameter for name, parameter in part.parameters.items() if is_up_matrix(name)]
    down = [parameter for name, parameter in part.parameters.items() if not is_up_matrix(name)]
    if not up:
        message = f"is {ratio:g}, but no factor of {part.name}'s adapter starts at zero, so it has no B."
        raise ConfigError([Finding("error", "optimizer.lora_plus_ratio", message, "Set it to 1.")])
    faster = part.lr * ratio
    slow = [{"params": down, "lr": part.lr, "peak_lr": part.lr}] if down else []
    return [*slow, {"params": up, "lr": faster, "peak_lr": faster}]
