"""What the machine lacks for the settings of `hardware`."""

from __future__ import annotations

from trainer_core.data.names import pluralize
from trainer_core.stages.project.session import Session
from trainer_core.types import Finding


def machine_findings(session: Session) -> list[Finding]:
    """Return whether there are fewer GPUs than processes: each needs one of its own."""
    asked, gpus = session.project.hardware.num_processes, session.machine.gpus
    if session.workspace.profile.device != "cuda" or asked <= max(1, gpus):
        return []
    message = f"is {asked}, but this machine shows {pluralize(gpus, 'GPU')} to this process."
    fix = f"Set it to {max(1, gpus)}, or name more GPUs in CUDA_VISIBLE_DEVICES."
    return [Finding("error", "hardware.num_processes", message, fix)]
