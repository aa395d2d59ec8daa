"""Settings that break a rule of captions and text encoders, and neighbours that just do not."""

from __future__ import annotations

from tests.unit.config.rule_cases.case import DIFFUSION, Case
from trainer_core.config.rules import Facts

CASES = [
    Case(
        "trained_text_is_not_cached",
        "error",
        "text.cache",
        "text.cache=always adapter.text_encoders=[text_encoder]",
        "text.cache=auto adapter.text_encoders=[text_encoder]",
    ),
    Case(
        "shuffled_text_has_variants",
        "warning",
        "caption.variants",
        "caption.variants=1 tags.shuffle=true",
        "caption.variants=2 tags.shuffle=true",
    ),
    Case(
        "variants_need_something_that_varies",
        "warning",
        "caption.variants",
        "caption.variants=8",
        "caption.variants=8 caption.wildcards=true",
    ),
    Case(
        "kept_tokens_are_kept_from_something",
        "warning",
        "tags.keep_tokens",
        "tags.keep_tokens=1",
        "tags.keep_tokens=1 tags.dropout=0.1",
    ),
    Case(
        "kept_tokens_are_given_once",
        "info",
        "tags.keep_tokens",
        "tags.keep_tokens=1 tags.keep_tokens_separator='|||' tags.shuffle=true",
        "tags.keep_tokens=1 tags.shuffle=true",
    ),
    Case(
        "separators_differ",
        "error",
        "tags.secondary_separator",
        "tags.secondary_separator=','",
        "tags.secondary_separator=';;;'",
    ),
    Case("some_tags_stay", "warning", "tags.dropout", "tags.dropout=1", "tags.dropout=0.9"),
    Case("some_captions_stay", "warning", "caption.dropout", "caption.dropout=1", "caption.dropout=0.9"),
    Case(
        "some_captions_stay",
        "warning",
        "caption.dropout_every_n_epochs",
        "caption.dropout_every_n_epochs=1",
        "caption.dropout_every_n_epochs=2",
    ),
    Case(
        "long_clip_captions_are_read",
        "warning",
        "text.clip_tokens",
        "text.clip_tokens=150",
        "text.clip_tokens=150",
        Facts(reads_clip_tokens=False),
        DIFFUSION,
    ),
    Case(
        "clip_layers_are_skipped",
        "warning",
        "text.clip_skip",
        "text.clip_skip=1",
        "text.clip_skip=1",
        Facts(skips_clip_layers=False),
        DIFFUSION,
    ),
    Case(
        "text_length_is_chosen",
        "warning",
        "text.max_length",
        "text.max_length=256",
        "text.max_length=256",
        Facts(chooses_text_length=False),
        DIFFUSION,
    ),
    Case("live_text_costs_memory", "info", "text.cache", "text.cache=never", "text.cache=always"),
]
