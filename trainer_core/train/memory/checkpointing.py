"""Gradient checkpointing of all blocks of a denoiser, or of every second one."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from trainer_core.hardware.step_plan import Checkpointing


class EverySecond:
    """Recomputes every second block, in the order in which they are first called; the others keep their activations."""

    def __init__(self) -> None:
        self.positions: dict[nn.Module, int] = {}

    def __call__(self, block: nn.Module, *args: Any) -> Any:
        """Run a block as diffusers' checkpointing function does."""
        position = self.positions.setdefault(block, len(self.positions))
        return block(*args) if position % 2 else checkpoint(block, *args, use_reentrant=False)


def set_checkpointing(denoiser: Any, which: Checkpointing) -> None:
    """Choose which blocks of a diffusers denoiser are computed again in the backward pass; gradients stay the same."""
    if which == "off":
        denoiser.disable_gradient_checkpointing()
    elif which == "all":
        denoiser.enable_gradient_checkpointing()
    else:
        denoiser.enable_gradient_checkpointing(EverySecond())


def set_encoder_checkpointing(encoder: Any, which: Checkpointing) -> None:
    """Do so for a text encoder of transformers, which knows all or nothing."""
    if which == "off":
        encoder.activation_checkpointing_disable()
    else:
        encoder.activation_checkpointing_enable({"use_reentrant": False})
