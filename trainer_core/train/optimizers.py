"""Optimizers over the trained parts: built by name, saved and restored bit for bit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer_core.config.groups import OptimizerConfig
from trainer_core.errors import ConfigError
from trainer_core.train.optimizer_check import arguments, check_optimizer, optimizer_class
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
    if problems := check_optimizer(config):
        raise ConfigError(problems)
    groups = [group for part in parts for group in _groups(part, config.lora_plus_ratio)]
    cls = optimizer_class(config)
    return cls(groups, **arguments(cls, config, scaled))


def effective_lr(optimizer: Any) -> float:
    """Return the rate of the first group as it acts: D-Adaptation and Prodigy multiply theirs by their estimate d."""
    group = optimizer.param_groups[0]
    return float(group["lr"]) * float(group.get("d", 1.0)) / float(group.get("g0_norm") or 1.0)


def optimizer_state(optimizer: Any) -> dict[str, Any]:
    """Return everything that the next step needs: `state_dict`, and numbers that some classes keep beside it."""
    inner = _unwrapped(optimizer)
    return {**inner.state_dict(), "attributes": _numbers(inner)}


def restore_optimizer(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Put back what `optimizer_state` returned, bit for bit, on the devices of the parameters."""
    inner = _unwrapped(optimizer)
    inner.load_state_dict({"state": state["state"], "param_groups": state["param_groups"]})
    parameters = [parameter for group in inner.param_groups for parameter in group["params"]]
    for index, saved in state["state"].items():
        own = inner.state[parameters[index]]
        # torch casts floating-point state to the parameters' dtype on loading.
        own.update({name: _as_saved(own[name], value) for name, value in saved.items() if name in own})
    for group in inner.param_groups:
        device = group["params"][0].device
        group.update({name: value.to(device) for name, value in group.items() if isinstance(value, Tensor)})
    for name, value in state["attributes"].items():
        setattr(inner, name, value)


def _groups(part: TrainedPart, ratio: float) -> list[dict[str, Any]]:
    """Return the part's parameters, and with LoRA+ the up matrices apart. Source: arXiv 2402.12354."""
    if ratio == 1.0:
        return [{"params": list(part.parameters.values()), "lr": part.lr, "peak_lr": part.lr}]
    up = [parameter for name, parameter in part.parameters.items() if is_up_matrix(name)]
    down = [parameter for name, parameter in part.parameters.items() if not is_up_matrix(name)]
    if not up:
        message = f"is {ratio:g}, but no factor of {part.name}'s adapter starts at zero, so there is nothing to speed up."
        raise ConfigError([Finding("error", "optimizer.lora_plus_ratio", message, "Set it to 1.")])
    faster = part.lr * ratio
    slow = [{"params": down, "lr": part.lr, "peak_lr": part.lr}] if down else []
    return [*slow, {"params": up, "lr": faster, "peak_lr": faster}]


def _as_saved(own: Any, saved: Any) -> Any:
    if isinstance(saved, Tensor):
        return own if own.dtype == saved.dtype else saved.to(own.device)
    if isinstance(saved, list | tuple):
        return type(saved)(_as_saved(mine, one) for mine, one in zip(own, saved, strict=True))
    if isinstance(saved, Mapping):
        return {name: _as_saved(own[name], one) for name, one in saved.items()}
    return saved


def _numbers(optimizer: Any) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(optimizer).items()
        if not name.startswith("_") and isinstance(value, bool | int | float)
    }


def _unwrapped(optimizer: Any) -> Any:
    """Return the optimizer inside accelerate's wrapper."""
    from accelerate.optimizer import AcceleratedOptimizer

    return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
