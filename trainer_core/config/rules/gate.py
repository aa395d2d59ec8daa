"""Rules of the gate: what is examined, and whether its limits mean anything for so few pictures."""

from __future__ import annotations

from trainer_core.confidence import count_to_tell, noise_of_share
from trainer_core.config.groups.output import MAX_PICTURES, GateConfig
from trainer_core.config.project import Project
from trainer_core.config.rules.base import Facts, Rule
from trainer_core.types import Finding


def scores_have_prompts(project: Project, facts: Facts) -> Finding | None:
    """A judge or a CLIP model needs prompts, or no picture is rendered for it."""
    gate = project.gate
    if gate.concept_prompts or gate.other_prompts or (gate.judge is None and gate.clip_path is None):
        return None
    name = "gate.clip_path" if gate.judge is None else "gate.judge"
    fix = "Set `gate.concept_prompts` and `gate.other_prompts`."
    return Finding("warning", name, "is set, but there is no prompt to render: no score is measured.", fix)


def the_concept_score_is_measured(project: Project, facts: Facts) -> Finding | None:
    """A limit for the concept score needs a judge and prompts that give such a score."""
    gate = project.gate
    if not gate.min_concept_score or (gate.judge is not None and gate.concept_prompts):
        return None
    message = f"is {gate.min_concept_score:g}, but no concept score is measured: the limit has no effect."
    return Finding("warning", "gate.min_concept_score", message, "Set `gate.judge` and `gate.concept_prompts`.")


def the_concept_limit_fits_the_number_of_pictures(project: Project, facts: Facts) -> Finding | None:
    """So few concept pictures that chance alone takes a LoRA at the limit to 0 or 100 %."""
    limit = project.gate.min_concept_score
    return _too_few("min_concept_score", limit, "a LoRA at the limit", "concept_prompts", project.gate)


def the_following_limit_fits_the_number_of_pictures(project: Project, facts: Facts) -> Finding | None:
    """So few pictures that chance alone explains a loss of prompt following as large as the limit."""
    limit = project.gate.max_following_loss
    return _too_few("max_following_loss", limit, "a loss at the limit", "other_prompts", project.gate)


def _too_few(name: str, limit: float, measured: str, prompts: str, gate: GateConfig) -> Finding | None:
    asked = len(getattr(gate, prompts))
    examined, needed = asked * gate.pictures, count_to_tell(limit)
    # A limit of 0 or 1 either forbids nothing or asks for every picture: both are meant as they stand.
    if gate.judge is None or not examined or needed is None or examined >= needed:
        return None
    noise = noise_of_share(limit, examined)
    message = (
        f"is {limit:g}, but so few pictures cannot measure it: {measured} comes out as {limit:.0%} ± {noise:.0%} "
        f"with {examined} pictures ({asked} of gate.{prompts} x gate.pictures {gate.pictures})."
    )
    each = -(-needed // asked)
    several = f", or set `gate.pictures: {each}`" if each <= MAX_PICTURES else ""
    fix = f"Examine at least {needed} pictures: add prompts{several}."
    return Finding("warning", f"gate.{name}", message, fix)


RULES: tuple[Rule, ...] = (
    scores_have_prompts,
    the_concept_score_is_measured,
    the_concept_limit_fits_the_number_of_pictures,
    the_following_limit_fits_the_number_of_pictures,
)
