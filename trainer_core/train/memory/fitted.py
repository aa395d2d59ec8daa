"""A denoiser, and its text encoders, as a step's plan wants them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trainer_core.adapters.adapter import draws
from trainer_core.errors import ConfigError
from trainer_core.hardware.placement import has_own_memory
from trainer_core.hardware.step_plan import Checkpointing, StepLimits, StepPlan
from trainer_core.hardware.streaming import BlockStream, copier_for, frozen_weights, swap_blocks
from trainer_core.train.memory.checkpointing import set_checkpointing, set_encoder_checkpointing
from trainer_core.types import Finding

if TYPE_CHECKING:
    from trainer_core.families.spec import FamilySpec
    from trainer_core.train.trainer_settings import TrainerSettings

_ASKED: dict[object, Checkpointing] = {False: "off", True: "all", "every_second": "every_second", "auto": "off"}


def planned(project: TrainerSettings) -> StepPlan:
    """Return the plan that the settings ask for; `auto` is nothing yet."""
    memory, swap = project.memory, project.memory.blocks_to_swap
    return StepPlan(
        "all" if swap not in (0, "auto") else _ASKED[project.train.gradient_checkpointing],
        memory.micro_batch,
        0 if swap == "auto" else swap,
        memory.offload_activations,
    )


def limits_of(project: TrainerSettings, blocks: Sequence[nn.Module], device: torch.device) -> StepLimits:
    """Return what a run may change when memory runs out; what the user fixed stays."""
    train, own = project.train, has_own_memory(device)
    kept = "gradient_checkpointing" in train.model_fields_set and train.gradient_checkpointing in (
        False,
        "every_second",
    )
    return StepLimits(
        batch_size=train.batch_size,
        splits=not draws(project.adapter),
        recomputes=not kept,
        swappable=len(blocks) if own and project.memory.blocks_to_swap == "auto" else 0,
        offloads=own,
    )


def swappable_blocks(denoiser: Any, spec: FamilySpec) -> list[nn.Module]:
    """Return the blocks that can be swapped, in the order in which they work: those that are computed again."""
    return [block for name in spec.swappable for block in getattr(denoiser, name)]


def compilable_blocks(denoiser: Any, spec: FamilySpec) -> list[nn.Module]:
    """Return the blocks that are alike; of a UNet its transformer blocks, as diffusers has it."""
    if spec.blocks:
        return [block for name in spec.blocks for block in getattr(denoiser, name)]
    kinds = getattr(denoiser, "_repeated_blocks", None) or ()
    return [module for module in denoiser.modules() if type(module).__name__ in kinds]


@dataclass
class FittedStep:
    """The models of a step under a plan; `use` another plan at any time between two steps."""

    denoiser: Any
    blocks: Sequence[nn.Module]
    """What can be swapped."""
    encoders: Sequence[Any]
    """Text encoders that are trained."""
    device: torch.device
    plan: StepPlan = field(default_factory=StepPlan)
    streams: list[BlockStream] = field(default_factory=list[BlockStream])

    def use(self, plan: StepPlan) -> None:
        """Have the models as a plan wants them. Swapped blocks stay swapped.

        Raises:
            ConfigError: no block of this model can be swapped.
        """
        if plan.checkpointing != self.plan.checkpointing:
            set_checkpointing(self.denoiser, plan.checkpointing)
            for encoder in self.encoders:
                set_encoder_checkpointing(encoder, plan.checkpointing)
        if more := plan.blocks_to_swap - self.plan.blocks_to_swap:
            self._swap(more)
        self.denoiser.to(self.device)
        self.plan = plan

    def _swap(self, count: int) -> None:
        swapped = {block for stream in self.streams for block in stream.blocks}
        left = [block for block in self.blocks if block not in swapped]
        if not left or not frozen_weights(left[0]):
            what = "all blocks are swapped already" if swapped else "this model has no blocks that can be swapped"
            fix = "Set it to 0 and lower the batch, or set memory.base to fp8, int8 or nf4."
            raise ConfigError([Finding("error", "memory.blocks_to_swap", f"{what}.", fix)])
        self.streams.append(swap_blocks(left, min(count, len(left)), self.device, copier_for(self.device)))
