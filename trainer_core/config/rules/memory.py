"""Rules of memory: what goes with what."""

from __future__ import annotations

from typing import Any

from trainer_core.adapter_kinds import adapter_kinds
from trainer_core.config.project import Project
from trainer_core.config.rules.base import Facts, Rule, changed, without_effect
from trainer_core.types import Finding

RANDOM_IN_THE_ADAPTER = ("dropout", "rank_dropout", "module_dropout")
"""Fields of `adapter` that draw numbers for a whole batch at once."""


def swapped_blocks_are_recomputed(project: Project, facts: Facts) -> Finding | None:
    """A block that left the device must be computed again in the backward pass."""
    swap, checkpointing = project.memory.blocks_to_swap, project.train.gradient_checkpointing
    if swap in (0, "auto") or checkpointing in (True, "auto"):
        return None
    message = (
        f"is {swap}, but train.gradient_checkpointing is {_shown(checkpointing)}: "
        "the backward pass would need weights that are gone."
    )
    return Finding("error", "memory.blocks_to_swap", message, "Set `train.gradient_checkpointing: true`.")


def eight_bit_arithmetic_has_eight_bit_weights(project: Project, facts: Facts) -> Finding | None:
    """`w8a8` multiplies the bytes of a base in fp8 or int8."""
    if project.memory.compute != "w8a8" or project.memory.base in ("fp8", "int8", "auto"):
        return None
    message = f"is w8a8, but memory.base is {project.memory.base}, whose weights are not in bytes."
    return Finding("error", "memory.compute", message, "Set `memory.base` to fp8 or int8.")


def stored_modules_are_chosen(project: Project, facts: Facts) -> Finding | None:
    """`memory.base_modules` has no effect on a dense base."""
    if project.memory.base != "dense" or not changed(project.memory, "base_modules"):
        return None
    return without_effect("memory.base_modules", "is set, but memory.base is dense")


def the_adapter_needs_no_dense_weights(project: Project, facts: Facts) -> Finding | None:
    """Some adapters compute with the base's weights themselves, at every step."""
    adapter, kinds = project.adapter, adapter_kinds()
    reads = kinds[adapter.type].reads_weight or project.adapter_options.decompose
    if project.memory.base == "dense" or not reads:
        return None
    name = adapter.type if kinds[adapter.type].reads_weight else "adapter_options.decompose"
    message = f"is {project.memory.base}, but {name} computes with the base's weights at every step, in full precision."
    possible = ", ".join(name for name, kind in kinds.items() if not kind.reads_weight)
    fix = f"Set `memory.base: dense`, or `adapter.type` to one of {possible}, without decompose."
    return Finding("error", "memory.base", message, fix)


def a_split_batch_draws_the_same_numbers(project: Project, facts: Facts) -> Finding | None:
    """Dropout in the adapter draws for a whole batch at once, so that a split batch would train something else."""
    idle = changed(project.adapter, *RANDOM_IN_THE_ADAPTER)
    micro = project.memory.micro_batch
    if not idle or not 0 < micro < project.train.batch_size:
        return None
    message = f"is {micro}, but adapter.{idle[0]} draws for a whole batch at once: the result would be another."
    fix = "Lower `train.batch_size` and raise `train.gradient_accumulation_steps`, or remove the dropout."
    return Finding("error", "memory.micro_batch", message, fix)


def a_split_batch_has_parts(project: Project, facts: Facts) -> Finding | None:
    """`memory.micro_batch` has no effect where the batch is not larger."""
    micro, batch = project.memory.micro_batch, project.train.batch_size
    if micro == 0 or micro < batch:
        return None
    return without_effect("memory.micro_batch", f"is {micro}, but train.batch_size is {batch}")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


RULES: tuple[Rule, ...] = (
    swapped_blocks_are_recomputed,
    eight_bit_arithmetic_has_eight_bit_weights,
    stored_modules_are_chosen,
    the_adapter_needs_no_dense_weights,
    a_split_batch_draws_the_same_numbers,
    a_split_batch_has_parts,
)
