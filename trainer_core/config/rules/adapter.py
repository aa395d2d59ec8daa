"""Rules of the adapter."""

from __future__ import annotations

from trainer_core.adapter_kinds import adapter_kinds
from trainer_core.config.project import Project
from trainer_core.config.rules.base import Facts, Rule, without_effect
from trainer_core.types import Finding

MAX_USUAL_RANK = 256
MAX_USUAL_SCALE = 8


def rank_is_usual(project: Project, facts: Facts) -> Finding | None:
    """The file grows with the rank; what it learns soon does not."""
    rank = project.adapter.rank
    if rank <= MAX_USUAL_RANK or not adapter_kinds()[project.adapter.type].has_rank:
        return None
    message = f"is {rank}: the file is very large and overfits easily; 4 to 128 is usual."
    return Finding("warning", "adapter.rank", message, "Try 32 first.")


def rank_fits_the_layers(project: Project, facts: Facts) -> Finding | None:
    """A rank above the width of a layer gives the adapter more weights than the layer itself has."""
    rank = project.adapter.rank
    narrowest = min(facts.widths, default=rank)
    if rank <= narrowest or not adapter_kinds()[project.adapter.type].has_rank:
        return None
    message = f"is {rank}, above the {narrowest} channels of the narrowest blocks: more weights than the layers have."
    return Finding("warning", "adapter.rank", message, f"Choose at most {narrowest}.")


def alpha_is_usual(project: Project, facts: Facts) -> Finding | None:
    """Alpha multiplies what is learnt; a large one acts like a larger rate."""
    adapter = project.adapter
    if adapter.alpha <= MAX_USUAL_SCALE * adapter.rank or not adapter_kinds()[adapter.type].has_rank:
        return None
    message = f"is {adapter.alpha:g} at rank {adapter.rank}: every update is multiplied by "
    message += f"{adapter.alpha / adapter.rank:g}."
    return Finding("warning", "adapter.alpha", message, f"Choose {adapter.rank} (no scaling) or less.")


def rank_is_set_once(project: Project, facts: Facts) -> Finding | None:
    """With `rank_from_weights` the ranks come from the file, so `adapter.blocks` is not read."""
    if not (project.adapter.rank_from_weights and project.adapter.blocks):
        return None
    fix = "Remove it, or set `adapter.rank_from_weights` to false."
    return without_effect("adapter.blocks", "is set, but adapter.rank_from_weights takes every rank from the file", fix)


def trained_text_encoders_exist(project: Project, facts: Facts) -> Finding | None:
    """A named text encoder is missing from the base model, or cannot be trained."""
    known = facts.trainable_text_encoders
    if not (unknown := [name for name in project.adapter.text_encoders if name not in known]):
        return None
    message = f"names {', '.join(unknown)}, but {facts.title} has no such text encoder that can be trained."
    fix = f"Choose from {', '.join(known)}." if known else "Leave it empty: only the denoiser can be trained."
    return Finding("error", "adapter.text_encoders", message, fix)


def text_encoders_are_named_once(project: Project, facts: Facts) -> Finding | None:
    """A text encoder that is named twice would get two adapters."""
    asked = project.adapter.text_encoders
    twice = [name for name in dict.fromkeys(asked) if asked.count(name) > 1]
    if not twice:
        return None
    return Finding("error", "adapter.text_encoders", f"names {', '.join(twice)} more than once.", "Name each once.")


def text_encoders_carry_a_plain_lora(project: Project, facts: Facts) -> Finding | None:
    """Other programs load a text encoder's LoRA only from files of plain LoRA."""
    adapter, options = project.adapter, project.adapter_options
    plain = adapter_kinds()[adapter.type].plain_lora
    if not adapter.text_encoders or (plain and not (options.decompose or options.tucker)):
        return None
    kind = "decomposed" if plain else adapter.type
    message = (
        f"names {', '.join(adapter.text_encoders)}, but a text encoder gets a plain LoRA, and no program loads "
        f"that from one file with {kind} layers."
    )
    possible = ", ".join(name for name, kind in adapter_kinds().items() if kind.plain_lora)
    fix = f"Set `adapter.type` to one of {possible}, or leave `adapter.text_encoders` empty."
    return Finding("error", "adapter.text_encoders", message, fix)


RULES: tuple[Rule, ...] = (
    rank_is_usual,
    rank_fits_the_layers,
    alpha_is_usual,
    rank_is_set_once,
    trained_text_encoders_exist,
    text_encoders_are_named_once,
    text_encoders_carry_a_plain_lora,
)
