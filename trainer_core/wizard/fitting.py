"""Resolution and batch that a machine's memory holds, by the memory plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from trainer_core.memory.budget import GIB, device_budget
from trainer_core.memory.footprint import Checkpointing, Work
from trainer_core.memory.planner import Plan, Wishes, choose
from trainer_core.memory.question import Measured, at
from trainer_core.wizard.situation import BaseFacts, MachineFacts

BATCHES = (8, 4, 2, 1)
SIDES = (1024, 896, 768, 640, 512)
_WISHES = (
    Wishes(gradient_checkpointing=False, blocks_to_swap=0),
    Wishes(blocks_to_swap=0),
    Wishes(base="auto"),
)
"""Tried in this order for a resolution: nothing special, gradient checkpointing, then all that there is."""


@dataclass(frozen=True)
class Fit:
    """What is chosen."""

    side: int
    """Pixels."""
    batch: int
    checkpointing: Checkpointing = "false"
    base: str = "dense"
    gib: float = 0.0
    """What training needs."""
    fits: bool = True


def fit_into(base: BaseFacts, machine: MachineFacts, natural: int, wanted: int) -> Fit:
    """Return the largest resolution, and then the largest batch, that fits.

    Args:
        base: with what was measured; without, everything is taken to fit.
        machine: whose memory it is.
        natural: side in pixels that base and pictures ask for.
        wanted: samples in a step.
    """
    if base.measured is None:
        return Fit(natural, wanted, gib=base.weights_gib)
    least: Fit | None = None
    for least in _fits(base, base.measured, machine, natural, wanted):
        if least.fits:
            return least
    assert least is not None, "there is at least one side"
    return least


def _fits(base: BaseFacts, measured: Measured, machine: MachineFacts, natural: int, wanted: int) -> Iterator[Fit]:
    kind = "cpu" if machine.device == "cpu" else "unified" if machine.unified else "gpu"
    budget = device_budget("this machine", kind, machine.memory_gib * GIB)
    for side in (natural, *(side for side in SIDES if side < natural)):
        scaled = at_side(measured, (side / base.side) ** 2)
        for wishes in _WISHES:
            for batch in (one for one in BATCHES if one <= wanted):
                plan = choose(scaled, wishes, Work(batch, renders=False, measures=False), budget)
                yield _fit(side, batch, plan)


def _fit(side: int, batch: int, plan: Plan) -> Fit:
    training, choices = plan.training, plan.choices
    whole = choices.micro_batch == batch
    return Fit(
        side,
        batch,
        choices.gradient_checkpointing,
        choices.base,
        training.total / GIB,
        training.total <= plan.budget.usable and whole,
    )


def at_side(measured: Measured, area: float) -> Measured:
    """Return the measurement for pictures of another area: activations are a line in it, weights are not.

    Args:
        measured: at the base's own resolution.
        area: of the pictures, as a share of that resolution's.
    """
    gradients = 4 * measured.trained

    def scaled(size: int) -> int:
        return round(max(size - gradients, 0) * area) + min(size, gradients)

    step = {mode: {batch: scaled(at(sizes, batch)) for batch in sizes} for mode, sizes in measured.step.items()}
    return replace(measured, step=step)
