"""How a training step is made to fit into memory, and which measure comes next when it does not. No torch.

None of it changes what is learnt: recomputing and swapping give the same bits, a split batch the same sums but for
their rounding.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

from trainer_core.types import JSON

Checkpointing = Literal["off", "every_second", "all"]
"""Which blocks are computed again in the backward pass, so that their activations need not be kept."""


@dataclass(frozen=True)
class StepPlan:
    """How a step is made to fit."""

    checkpointing: Checkpointing = "off"
    micro_batch: int = 0
    """Samples of a forward pass, at least 1; 0 is the whole batch."""
    blocks_to_swap: int = 0
    """Blocks of the denoiser whose weights lie in the computer's memory."""
    offload_activations: bool = False

    def joined(self, other: StepPlan) -> StepPlan:
        """Return the plan that needs no more memory than either of two."""
        sizes = [size for size in (self.micro_batch, other.micro_batch) if size]
        order = get_args(Checkpointing)
        more = order.index(other.checkpointing) > order.index(self.checkpointing)
        return StepPlan(
            other.checkpointing if more else self.checkpointing,
            min(sizes, default=0),
            max(self.blocks_to_swap, other.blocks_to_swap),
            self.offload_activations or other.offload_activations,
        )

    def as_dict(self) -> dict[str, JSON]:
        """The form that is recorded."""
        return asdict(self)


@dataclass(frozen=True)
class StepLimits:
    """What may be done about a step that does not fit."""

    batch_size: int
    """Samples of a micro-batch."""
    splits: bool = True
    """Whether the batch may be split: the adapter draws no random numbers for a whole batch."""
    recomputes: bool = True
    """Whether `train.gradient_checkpointing` is left to the trainer."""
    swappable: int = 0
    """Blocks that can be swapped; 0 where the device has no memory of its own."""
    offloads: bool = False
    """Whether activations can be offloaded: the device has memory of its own."""


@dataclass(frozen=True)
class Rung:
    """A measure that a run took when memory ran out."""

    step: int
    """Optimizer steps that were finished before."""
    measure: str
    """What was changed, in words."""
    error: str
    """What the device said."""
    plan: StepPlan
    """The plan from there on."""

    def as_dict(self) -> dict[str, JSON]:
        """The form in metrics.jsonl, in the result's metadata and in `train --json`."""
        return asdict(self)


def next_plan(plan: StepPlan, limits: StepLimits) -> tuple[str, StepPlan] | None:
    """Return the next measure in words and the plan with it, cheapest in speed first; None after the last.

    Args:
        plan: the one that did not fit.
        limits: what may be changed.
    """
    if limits.recomputes and plan.checkpointing == "off":
        return "gradient checkpointing of every second block", replace(plan, checkpointing="every_second")
    if limits.recomputes and plan.checkpointing == "every_second":
        return "gradient checkpointing of all blocks", replace(plan, checkpointing="all")
    now = plan.micro_batch or limits.batch_size
    if limits.splits and now > 1:
        half = (now + 1) // 2
        return f"micro-batches of {half} instead of {now}", replace(plan, micro_batch=half)
    if plan.checkpointing == "all" and plan.blocks_to_swap < limits.swappable:
        more = min(limits.swappable, plan.blocks_to_swap + max(3, limits.swappable // 4))
        return f"{more} of {limits.swappable} blocks swapped", replace(plan, blocks_to_swap=more)
    if limits.offloads and not plan.offload_activations:
        return "activations in the computer's memory", replace(plan, offload_activations=True)
    return None


def ladder(plan: StepPlan, limits: StepLimits) -> list[str]:
    """Return all measures that follow a plan, in words and in order."""
    measures: list[str] = []
    while (following := next_plan(plan, limits)) is not None:
        measure, plan = following
        measures.append(measure)
    return measures
