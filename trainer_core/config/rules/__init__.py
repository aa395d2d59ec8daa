"""Settings that are right alone and wrong together: a table of small functions, each returning a finding or None.

Add a rule: write a function in the file of its topic, append it to that file's `RULES`, test it both ways. A rule that
forbids (level "error") must be about something that cannot work; what is merely unwise is a warning.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainer_core.config.native import with_native_resolution
from trainer_core.config.project import Project
from trainer_core.config.rules import adapter, gate, loss, memory, noise, optimizer, pictures, run, text
from trainer_core.config.rules.base import DataFacts, Facts, Rule
from trainer_core.types import Finding

__all__ = ["RULES", "TOPICS", "DataFacts", "Facts", "Rule", "check_rules"]

TOPICS: Mapping[str, tuple[Rule, ...]] = {
    "Noise and timesteps": noise.RULES,
    "Loss": loss.RULES,
    "Optimizer and schedule": optimizer.RULES,
    "Adapter": adapter.RULES,
    "Captions and text encoders": text.RULES,
    "Pictures": pictures.RULES,
    "The run": run.RULES,
    "Memory": memory.RULES,
    "The gate": gate.RULES,
}
RULES: tuple[Rule, ...] = tuple(rule for rules in TOPICS.values() for rule in rules)


def check_rules(project: Project, facts: Facts) -> list[Finding]:
    """Apply every rule.

    Args:
        project: valid settings.
        facts: what is known of the family, the base and the pictures.

    Returns:
        Findings in the order of `RULES`; those of level "error" make the project unusable.
    """
    project = with_native_resolution(project, facts.resolution)
    return [finding for rule in RULES if (finding := rule(project, facts)) is not None]
