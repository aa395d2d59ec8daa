"""Choose what makes the work fit: a pure function of measured bytes, of wishes and of a budget. No torch here.

Measures are tried in the order of what they cost in speed, each only as far as it is needed. What the user fixed stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from trainer_core.memory.budget import GIB, Budget
from trainer_core.memory.footprint import RING, Choices, StagePeak, Work, stage_peaks, training_peak
from trainer_core.memory.question import Measured

SCHEMES = ("dense", "fp8", "int8", "nf4")
BYTES_A_WEIGHT: Mapping[str, float] = {"dense": 2.0, "fp8": 1.01, "int8": 1.01, "nf4": 0.54}
LARGEST_SHARE = 0.72
"""Of the device's memory that `auto` gives to the weights of the base: the rest is for activations and the runtime."""


@dataclass(frozen=True)
class Wishes:
    """What the settings say; `auto` and 0 leave it to the plan."""

    base: Literal["auto", "dense", "fp8", "int8", "nf4"] = "dense"
    base_modules: str = "blocks+modulation"
    gradient_checkpointing: bool | Literal["auto", "every_second"] = "auto"
    blocks_to_swap: int | Literal["auto"] = "auto"
    micro_batch: int = 0
    offload_activations: bool = False
    encode_batch: int = 1
    text_batch: int = 1
    fixed_encode_batch: bool = False
    fixed_text_batch: bool = False
    splits: bool = True
    """Whether a batch may be split: dropout in the adapter draws for a whole batch at once."""


@dataclass(frozen=True)
class Plan:
    """What was chosen, and what it needs."""

    budget: Budget
    work: Work
    choices: Choices
    stages: tuple[StagePeak, ...]
    reasons: tuple[str, ...]
    """One sentence for each measure that was taken."""
    speed: float
    """Time of a step, as a multiple of that without any measure: an estimate."""
    would_fit: tuple[str, ...] = field(default=())
    """What would fit, where this does not."""

    @property
    def fits(self) -> bool:
        """Whether every stage is within the budget."""
        return all(stage.total <= self.budget.usable for stage in self.stages)

    @property
    def training(self) -> StagePeak:
        """The peak of training."""
        return next(stage for stage in self.stages if stage.name == "train")


COST: Mapping[str, float] = {
    "every_second": 1.2,
    "true": 1.4,
    "micro_batch": 1.05,
    "swap": 1.15,
    "offload": 1.2,
    "fp8": 1.15,
    "int8": 1.2,
    "nf4": 1.5,
}
"""Time of a step by measure, in the middle of what others report (docs/memory.md); none was measured here on a GPU."""


def resolve_base(asked: str, parameters: int, total: float) -> str:
    """Return the scheme that `auto` is on a machine: the first whose weights leave enough of its total memory.

    Args:
        asked: `memory.base`.
        parameters: of the denoiser.
        total: bytes of the device.
    """
    if asked != "auto":
        return asked
    fits = (scheme for scheme in SCHEMES if parameters * BYTES_A_WEIGHT[scheme] <= LARGEST_SHARE * total)
    return next(fits, SCHEMES[-1])


def choose(measured: Measured, wishes: Wishes, work: Work, budget: Budget) -> Plan:
    """Return the cheapest plan that fits, or the smallest there is with what would fit.

    Args:
        measured: of the base with this adapter and batch.
        wishes: the settings.
        work: what is done.
        budget: of the machine.
    """
    best = _cheapest(measured, wishes, work, budget)
    if best.fits:
        return best
    return replace(best, would_fit=tuple(_alternatives(measured, wishes, work, budget)))


def _cheapest(measured: Measured, wishes: Wishes, work: Work, budget: Budget) -> Plan:
    base = resolve_base(wishes.base, measured.weights["dense"] // 2, budget.total)
    choices = _first_choices(measured, replace(wishes, base=base), work, budget)  # type: ignore[arg-type]
    for taken in _rungs(measured, choices, wishes, work, budget):
        choices = taken
        if training_peak(measured, choices, work, budget).total <= budget.usable:
            break
    stages = tuple(stage_peaks(measured, choices, work, budget))
    return Plan(budget, work, choices, stages, tuple(_reasons(choices, wishes, work, budget)), _speed(choices, work))


def _first_choices(measured: Measured, wishes: Wishes, work: Work, budget: Budget) -> Choices:
    fixed = wishes.gradient_checkpointing
    swapped = 0 if wishes.blocks_to_swap == "auto" else wishes.blocks_to_swap
    mode = "true" if swapped and fixed == "auto" else str(fixed).lower()
    choices = Choices(
        base=wishes.base,
        base_modules=wishes.base_modules,
        gradient_checkpointing="false" if mode == "auto" else mode,  # type: ignore[arg-type]
        blocks_to_swap=min(swapped, max(len(measured.blocks["dense"]) - RING, 0)),
        micro_batch=min(wishes.micro_batch or work.batch, work.batch),
        offload_activations=wishes.offload_activations,
    )
    return replace(
        choices,
        encode_batch=_largest("encode latents", wishes.encode_batch, wishes.fixed_encode_batch, measured, work, budget),
        text_batch=_largest("encode text", wishes.text_batch, wishes.fixed_text_batch, measured, work, budget),
    )


def _largest(stage: str, wanted: int, fixed: bool, measured: Measured, work: Work, budget: Budget) -> int:
    """Return the largest batch of an encoding stage that fits, of `wanted` and its halves."""
    batch = wanted
    while batch > 1 and not fixed:
        choices = Choices(encode_batch=batch, text_batch=batch)
        peak = next(one for one in stage_peaks(measured, choices, work, budget) if one.name == stage)
        if peak.total <= budget.usable:
            return batch
        batch //= 2
    return batch


def _rungs(measured: Measured, choices: Choices, wishes: Wishes, work: Work, budget: Budget) -> Iterator[Choices]:
    """Yield ever smaller choices, each with all measures before it."""
    yield choices
    if wishes.gradient_checkpointing == "auto":
        for mode in ("every_second", "true"):
            if choices.gradient_checkpointing != "true":
                choices = replace(choices, gradient_checkpointing=mode)
                yield choices
    for parts in _splits(wishes, work):
        choices = replace(choices, micro_batch=parts)
        yield choices
    for swapped in _swaps(measured, choices, wishes, budget):
        yield (choices := replace(choices, blocks_to_swap=swapped))
    checkpointed = choices.gradient_checkpointing == "true"
    if budget.can_swap and checkpointed:
        yield replace(choices, offload_activations=True)


def _splits(wishes: Wishes, work: Work) -> Iterator[int]:
    """Yield smaller micro-batches: halves, down to one sample."""
    if wishes.micro_batch or not wishes.splits:
        return
    size = work.batch
    while size > 1:
        size = -(-size // 2)
        yield size


def _swaps(measured: Measured, choices: Choices, wishes: Wishes, budget: Budget) -> Iterator[int]:
    """Yield numbers of swapped blocks, fewest first."""
    free = wishes.blocks_to_swap == "auto" and choices.gradient_checkpointing == "true"
    if not free or not budget.can_swap:
        return
    most = len(measured.blocks[choices.storage]) - RING
    yield from range(min(RING + 1, most), most + 1) if most > 0 else ()


def _alternatives(measured: Measured, wishes: Wishes, work: Work, budget: Budget) -> Iterator[str]:
    """Yield what would fit, in words."""
    free = replace(
        wishes,
        gradient_checkpointing="auto",
        blocks_to_swap="auto",
        micro_batch=0,
        fixed_encode_batch=False,
        fixed_text_batch=False,
    )
    if free != wishes and (plan := _cheapest(measured, free, work, budget)).fits:
        yield f"without your own memory settings: {settings_of(plan.choices, work)}"
    for scheme in SCHEMES[1:]:
        asked = replace(free, base=scheme)  # type: ignore[arg-type]
        if scheme == wishes.base:
            continue
        if (plan := _cheapest(measured, asked, work, budget)).fits:
            yield f"memory.base: {scheme}, {plan.training.total / GIB:.1f} GiB ({settings_of(plan.choices, work)})"
    least = _cheapest(measured, free, work, budget)
    stage = max(least.stages, key=lambda one: one.total)
    yield f"a device with {stage.total / GIB / 0.95:.0f} GiB or more ({stage.name}), or a smaller bucket.resolution"


def settings_of(choices: Choices, work: Work) -> str:
    """Name the measures of a choice, as settings."""
    named = [
        f"memory.base {choices.base}" if choices.base != "dense" else "",
        f"gradient checkpointing {choices.gradient_checkpointing}" if choices.gradient_checkpointing != "false" else "",
        f"micro-batch {choices.micro_batch} of {work.batch}" if choices.micro_batch < work.batch else "",
        f"{choices.blocks_to_swap} blocks swapped" if choices.blocks_to_swap else "",
        "activations offloaded" if choices.offload_activations else "",
    ]
    return ", ".join(name for name in named if name) or "nothing special"


def _reasons(choices: Choices, wishes: Wishes, work: Work, budget: Budget) -> Iterator[str]:
    fit = f"{budget.usable / GIB:.1f} GiB"
    if wishes.base == "auto":
        yield f"memory.base is {choices.base}: the first whose weights leave enough of {budget.total / GIB:.0f} GiB"
    if wishes.gradient_checkpointing == "auto" and choices.gradient_checkpointing != "false":
        yield f"gradient checkpointing ({choices.gradient_checkpointing}): without it the step exceeds {fit}"
    if not wishes.micro_batch and choices.micro_batch < work.batch:
        yield f"a batch of {work.batch} in parts of {choices.micro_batch}: whole it exceeds {fit}"
    if wishes.blocks_to_swap == "auto" and choices.blocks_to_swap:
        yield f"{choices.blocks_to_swap} blocks lie in the computer's memory: the weights exceed {fit}"
    if not wishes.offload_activations and choices.offload_activations:
        yield "activations lie in the computer's memory between both passes"


def _speed(choices: Choices, work: Work) -> float:
    factor = COST.get(choices.gradient_checkpointing, 1.0) * COST.get(choices.base, 1.0)
    factor *= COST["micro_batch"] if choices.micro_batch < work.batch else 1.0
    factor *= COST["swap"] if choices.blocks_to_swap else 1.0
    return factor * (COST["offload"] if choices.offload_activations else 1.0)
