"""What services that a run logs to lack, before hours of training are not logged."""

from __future__ import annotations

import os
from importlib.util import find_spec

from trainer_core.config.project import Project
from trainer_core.types import Finding


def service_findings(project: Project) -> list[Finding]:
    """Return what Weights & Biases lacks: the package, or the API key."""
    mode = project.logging.wandb
    if mode != "off" and find_spec("wandb") is None:
        fix = "Install it (`pip install lora-assets[wandb]`), or set it to off."
        return [Finding("error", "logging.wandb", f"is {mode}, but the package wandb is not installed.", fix)]
    if mode == "online" and not os.environ.get("WANDB_API_KEY"):
        fix = "Set it in the environment, and nowhere else, or use offline and `wandb sync` later."
        return [Finding("error", "logging.wandb", "is online, but WANDB_API_KEY is not set.", fix)]
    return []
