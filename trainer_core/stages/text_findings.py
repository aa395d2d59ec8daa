"""What is wrong with the settings of text encoders, before anything is computed."""

from __future__ import annotations

from trainer_core.config.project import Project
from trainer_core.families import family_names, get_family
from trainer_core.families.base import FamilySpec
from trainer_core.types import Finding


def text_findings(project: Project, spec: FamilySpec) -> list[Finding]:
    """Return what is wrong with the settings of text encoders for a family."""
    found: list[Finding] = []
    asked, able, rates = project.adapter.text_encoders, list(spec.text_lora), project.optimizer.text_encoder_lr
    name = "adapter.text_encoders"
    if unable := [one for one in asked if one not in able]:
        message = f"{', '.join(unable)} of {spec.title} cannot carry a LoRA."
        fix = f"Use {' and '.join(able)}." if able else f"Remove it. {_families_that_can()} can train theirs."
        found.append(Finding("error", name, message, fix))
    if len(set(asked)) < len(asked):
        found.append(Finding("error", name, "names one text encoder twice.", "Name each once."))
    if asked and project.adapter.type != "lora":
        message = f"text encoders carry a plain LoRA, but adapter.type is {project.adapter.type}."
        found.append(Finding("error", name, message, "Set adapter.type to lora, or leave text encoders out."))
    if asked and project.text.cache == "always":
        message = "is `always`, but what a trained text encoder says changes with every step."
        found.append(Finding("error", "text.cache", message, "Set it to auto, or leave adapter.text_encoders out."))
    if len(rates) > 1 and len(rates) != len(asked):
        message = f"has {len(rates)} rates for {len(asked)} text encoders."
        found.append(Finding("error", "optimizer.text_encoder_lr", message, "Give one for all, or one each."))
    if rates and not asked:
        message = "is set, but no text encoder is trained: it has no effect."
        fix = "Name them in adapter.text_encoders, or remove it."
        found.append(Finding("warning", "optimizer.text_encoder_lr", message, fix))
    if project.text.clip_tokens > 75 and not spec.long_captions:
        message = f"is {project.text.clip_tokens}, but {spec.title} does not read captions in pieces: it has no effect."
        found.append(Finding("warning", "text.clip_tokens", message, "Remove it."))
    return found


def _families_that_can() -> str:
    return ", ".join(name for name in family_names() if get_family(name).spec.text_lora)
