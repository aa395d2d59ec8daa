"""Settings that break a rule of memory, and neighbours that just do not.

A neighbour must be trainable, so none of them has a value that is not available yet.
"""

from __future__ import annotations

from tests.unit.config.rule_cases.case import Case

SWAP, MICRO = "memory.blocks_to_swap", "memory.micro_batch"

CASES = [
    Case(
        "swapped_blocks_are_recomputed",
        "error",
        SWAP,
        f"{SWAP}=4 train.gradient_checkpointing=false",
        f"{SWAP}=4 train.gradient_checkpointing=true",
    ),
    Case(
        "eight_bit_arithmetic_has_eight_bit_weights",
        "error",
        "memory.compute",
        "memory.compute=w8a8 memory.base=nf4",
        "memory.compute=dense",
    ),
    Case(
        "stored_modules_are_chosen",
        "warning",
        "memory.base_modules",
        "memory.base_modules=blocks",
        "memory.base_modules=blocks memory.base=int8",
    ),
    Case(
        "the_adapter_needs_no_dense_weights",
        "error",
        "memory.base",
        "memory.base=nf4 adapter.type=dora",
        "memory.base=nf4 adapter.type=loha",
    ),
    Case(
        "a_split_batch_draws_the_same_numbers",
        "error",
        MICRO,
        f"{MICRO}=2 train.batch_size=4 adapter.dropout=0.1",
        "train.batch_size=4 adapter.dropout=0.1",
    ),
    Case("a_split_batch_has_parts", "warning", MICRO, f"{MICRO}=4 train.batch_size=4", "train.batch_size=4"),
]
