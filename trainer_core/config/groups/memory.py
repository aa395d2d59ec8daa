"""How much memory the work may take, and how it is made to fit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainer_core.config.groups.base import NEUTRAL, Group


class MemoryConfig(Group):
    """How the work is made to fit into the memory of the device. What is set here, no plan overrules."""

    base: Literal["auto", "dense", "fp8", "int8", "nf4"] = "dense"
    """How the weights of the base are kept while it is trained on: `dense` in the training precision, `fp8` and `int8`
    in a byte with a scale a row, `nf4` in half a byte (QLoRA, arXiv 2305.14314); `auto` is the first of these that
    fits the machine's total memory. The LoRA is exported plain. Default: the exact one. kohya: `fp8_base`,
    `fp8_scaled`. ai-toolkit: `model.quantize`, `model.qtype`."""
    base_modules: Literal["blocks", "blocks+modulation", "all-linear"] = "blocks+modulation"
    """Which linears of the base `base` is for: those in the blocks, those and the modulation, or all but the first and
    the last layers. Default: modulation is a quarter of FLUX.1's weights, and what lies outside is small and
    sensitive."""
    compute: Literal["dense", "w8a8"] = "dense"
    """Arithmetic of a base in `fp8` or `int8`: `dense` widens the weights first, `w8a8` multiplies 8-bit weights by
    8-bit activations, where the card can. Default: the exact one."""
    blocks_to_swap: Annotated[Annotated[int, Field(ge=0, le=1000)] | Literal["auto"], NEUTRAL] = "auto"
    """Blocks of the base that lie in the computer's memory and are copied to the device when they are needed; needs
    gradient checkpointing. kohya: `blocks_to_swap`. ai-toolkit: `model.layer_offloading`."""
    micro_batch: Annotated[int, Field(ge=0, le=1024), NEUTRAL] = 0
    """Samples in one forward pass, where `train.batch_size` do not fit at once: gradients are added up, and the batch
    stays what it is. 0 is the whole batch, unless the plan splits it."""
    offload_activations: Annotated[bool, NEUTRAL] = False
    """Keep activations in the computer's memory between forward and backward pass. kohya:
    `cpu_offload_checkpointing`."""
    budget_gib: Annotated[float, Field(ge=0, le=100_000), NEUTRAL] = 0
    """Gibibytes of the device's memory that the work may take; 0 is what the machine has, less a reserve."""
    on_oom: Annotated[Literal["lower", "stop"], NEUTRAL] = "lower"
    """When memory runs out all the same: take the next measure that changes no result and go on from the last step,
    or stop. Default: a run should not end at night."""
