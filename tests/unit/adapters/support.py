"""Small models with every kind of layer that adapters meet, and adapters of random numbers on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer_core.adapters.adapter import ADAPTERS
from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig

PRESETS = {"attention": r"blocks\.\d+\.to_[qk]", "all-linear": r"blocks\.\d+\.(to_[qk]|proj)"}


class Block(nn.Module):
    """Two linear layers, a 1x1 and a 3x3 convolution and two norms, all between 32 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.to_q, self.to_k = nn.Linear(32, 64), nn.Linear(64, 32, bias=False)
        self.proj, self.conv = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 3, stride=1, padding=1)
        self.group = nn.GroupNorm(4, 32)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x + self.to_k(self.to_q(self.norm(x)).tanh())
        picture = hidden.transpose(1, 2).unflatten(2, (2, 2))
        return hidden + self.conv(self.proj(self.group(picture))).flatten(2).transpose(1, 2)


class Model(nn.Module):
    """Two blocks between two linear layers outside of them; with the interface of PEFT's models."""

    checkpointing = False

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.before = nn.Linear(8, 32)
            self.blocks: Any = nn.ModuleList([Block(), Block()])
            self.after = nn.Linear(32, 8)

    def add_adapter(self, config: Any, adapter_name: str) -> None:
        from peft import inject_adapter_in_model

        inject_adapter_in_model(config, self, adapter_name)
        self.peft_config = {adapter_name: config}

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointing else block(x)  # type: ignore[assignment]
        return self.after(x)


def inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(9)).to(dtype)


def on_model(
    kind: str, options: Mapping[str, Any] | None = None, seed: int = 1, noise: float = 0.05, **config: Any
) -> tuple[Model, dict[str, nn.Parameter]]:
    """Return a model in training mode with an adapter whose tensors are random."""
    model = Model()
    parameters = attach(model, kind, options, seed, **config)
    disturb(parameters, noise)
    return model.train(), parameters


def attach(
    model: nn.Module,
    kind: str,
    options: Mapping[str, Any] | None = None,
    seed: int = 1,
    initial: Any = None,
    **config: Any,
) -> dict[str, nn.Parameter]:
    settings = AdapterConfig.model_validate({"type": kind, "rank": 4, "alpha": 3.0, "targets": "all-linear"} | config)
    return ADAPTERS[kind].attach(
        model, settings, AdapterOptionsConfig.model_validate(options or {}), PRESETS, seed, initial
    )


def disturb(parameters: Mapping[str, nn.Parameter], size: float) -> None:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)


def output(model: nn.Module, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Run a model after seeding torch, as the loop does before a micro-batch."""
    torch.manual_seed(seed)
    return model(inputs(dtype))


def gradients(model: nn.Module, parameters: Mapping[str, nn.Parameter], seed: int = 0) -> dict[str, Tensor]:
    for parameter in parameters.values():
        parameter.grad = None
    output(model, seed).square().sum().backward()
    return {name: one.grad.clone() for name, one in parameters.items() if one.grad is not None}
