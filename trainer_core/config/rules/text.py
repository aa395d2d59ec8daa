"""Rules of captions, tags and text encoding."""

from __future__ import annotations

from trainer_core.config.project import Project
from trainer_core.config.rules.base import Facts, Rule, changed, without_effect
from trainer_core.types import Finding


def trained_text_is_not_cached(project: Project, facts: Facts) -> Finding | None:
    """A trained text encoder changes its embeddings at every step, so they cannot be cached."""
    if project.text.cache != "always" or not project.adapter.text_encoders:
        return None
    message = (
        f"is always, but {', '.join(project.adapter.text_encoders)} is trained: the embeddings change at every step."
    )
    return Finding("error", "text.cache", message, "Set it to auto.")


def shuffled_text_has_variants(project: Project, facts: Facts) -> Finding | None:
    """With one cached text a caption, the caption is the same in every epoch."""
    if _live(project) or project.caption.variants > 1 or not (varying := _varying(project)):
        return None
    message = f"is 1, so that each caption is encoded once: {', '.join(varying)} has no effect."
    return Finding("warning", "caption.variants", message, "Choose 8 or more, or set `text.cache: never`.")


def variants_need_something_that_varies(project: Project, facts: Facts) -> Finding | None:
    """`caption.variants` has no effect where captions do not vary."""
    if not changed(project.caption, "variants"):
        return None
    if _live(project):
        return without_effect("caption.variants", "is set, but captions are encoded during training, each batch anew")
    if not _varying(project):
        return without_effect("caption.variants", "is set, but captions do not differ from draw to draw")
    return None


def kept_tokens_are_kept_from_something(project: Project, facts: Facts) -> Finding | None:
    """`keep_tokens` and its like protect tags from being shuffled or dropped; without either they have no effect."""
    tags = project.tags
    idle = changed(tags, "keep_tokens", "keep_tokens_separator")
    if not idle or tags.shuffle or tags.dropout:
        return None
    fix = "Set `tags.shuffle` or `tags.dropout`, or remove it."
    return without_effect(f"tags.{idle[0]}", "is set, but tags are neither shuffled nor dropped", fix)


def kept_tokens_are_given_once(project: Project, facts: Facts) -> Finding | None:
    """In captions with `keep_tokens_separator`, the separator decides and not `keep_tokens`."""
    tags = project.tags
    if not (tags.keep_tokens and tags.keep_tokens_separator):
        return None
    message = (
        f"is {tags.keep_tokens}, but a caption with {tags.keep_tokens_separator!r} keeps the tags before that mark."
    )
    return Finding("info", "tags.keep_tokens", message, "It is used for captions without that mark only.")


def separators_differ(project: Project, facts: Facts) -> Finding | None:
    """The separators of tags must differ from each other."""
    tags = project.tags
    marks = {"secondary_separator": tags.secondary_separator, "keep_tokens_separator": tags.keep_tokens_separator}
    for name, mark in marks.items():
        if mark and mark == tags.separator:
            message = f"is {mark!r}, which is tags.separator too."
            return Finding("error", f"tags.{name}", message, "Choose another mark.")
    if tags.secondary_separator and tags.secondary_separator == tags.keep_tokens_separator:
        message = f"is {tags.secondary_separator!r}, which is tags.keep_tokens_separator too."
        return Finding("error", "tags.secondary_separator", message, "Choose another mark.")
    return None


def some_tags_stay(project: Project, facts: Facts) -> Finding | None:
    """At 1 every caption loses all its tags."""
    if project.tags.dropout < 1:
        return None
    fix = "Choose 0.05 to 0.3, or `caption.dropout` for whole captions."
    return Finding("warning", "tags.dropout", "is 1: every other tag than the kept ones is always dropped.", fix)


def some_captions_stay(project: Project, facts: Facts) -> Finding | None:
    """If every caption is dropped, no word is connected with what is trained."""
    caption = project.caption
    if caption.dropout < 1 and caption.dropout_every_n_epochs != 1:
        return None
    name = "dropout" if caption.dropout >= 1 else "dropout_every_n_epochs"
    message = "is 1: every draw has the empty caption, so no word stands for what is trained."
    return Finding("warning", f"caption.{name}", message, "Choose 0.05 to 0.1, or 0.")


def long_clip_captions_are_read(project: Project, facts: Facts) -> Finding | None:
    """`clip_tokens` is read only for families whose captions CLIP alone reads."""
    if project.text.clip_tokens == 75 or facts.reads_clip_tokens:
        return None
    return without_effect(
        "text.clip_tokens", f"is set, but {facts.title} does not read captions in pieces of 75 tokens"
    )


def clip_layers_are_skipped(project: Project, facts: Facts) -> Finding | None:
    """`clip_skip` is read only for families that let one choose the layer."""
    if not project.text.clip_skip or facts.skips_clip_layers:
        return None
    return without_effect("text.clip_skip", f"is set, but {facts.title} always reads the same layer")


def text_length_is_chosen(project: Project, facts: Facts) -> Finding | None:
    """`max_length` is read only for families that let one choose the length of the text."""
    if not project.text.max_length or facts.chooses_text_length:
        return None
    return without_effect("text.max_length", f"is set, but {facts.title} always reads the same number of tokens")


def live_text_costs_memory(project: Project, facts: Facts) -> Finding | None:
    """The encoders stay beside the denoiser for the whole run."""
    if project.text.cache != "never" or project.adapter.text_encoders:
        return None
    message = "is never: the text encoders stay in memory and run at every step."
    return Finding(
        "info",
        "text.cache",
        message,
        "To save memory, use `text.cache: auto` and `caption.variants`, which caches many texts of each caption.",
    )


def _live(project: Project) -> bool:
    return project.text.cache == "never" or bool(project.adapter.text_encoders)


def _varying(project: Project) -> list[str]:
    """Name the settings by which captions differ from draw to draw."""
    caption, tags = project.caption, project.tags
    varying = {
        "tags.shuffle": tags.shuffle,
        "tags.dropout": tags.dropout > 0,
        "caption.wildcards": caption.wildcards,
        "caption.multiline": caption.multiline in ("each", "random"),
    }
    return [name for name, on in varying.items() if on]


RULES: tuple[Rule, ...] = (
    trained_text_is_not_cached,
    shuffled_text_has_variants,
    variants_need_something_that_varies,
    kept_tokens_are_kept_from_something,
    kept_tokens_are_given_once,
    separators_differ,
    some_tags_stay,
    some_captions_stay,
    long_clip_captions_are_read,
    clip_layers_are_skipped,
    text_length_is_chosen,
    live_text_costs_memory,
)
