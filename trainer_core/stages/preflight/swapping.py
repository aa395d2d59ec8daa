"""Whether blocks and activations can lie in the computer's memory while a base is trained on."""

from __future__ import annotations

from trainer_core.stages.project.session import Session
from trainer_core.types import Finding

SWAP, OFFLOAD = "memory.blocks_to_swap", "memory.offload_activations"


def swapping_findings(session: Session) -> list[Finding]:
    """Return why blocks cannot be swapped, or why nothing is gained by it."""
    memory, workspace = session.project.memory, session.workspace
    swaps = memory.blocks_to_swap not in (0, "auto")
    asked = {SWAP: swaps, OFFLOAD: memory.offload_activations}
    profile, spec = workspace.profile, workspace.family.spec
    if not profile.has_own_memory:
        message = f"has no effect: {profile.name} computes in the computer's own memory."
        return [Finding("warning", name, message, "Leave it out here.") for name, wanted in asked.items() if wanted]
    if swaps and not spec.swappable:
        message = f"is {memory.blocks_to_swap}, but {spec.title} has no blocks that can be swapped: those of its UNet "
        fix = "Leave it out, and lower train.batch_size or set train.gradient_checkpointing."
        return [Finding("error", SWAP, message + "differ from one another.", fix)]
    return []
