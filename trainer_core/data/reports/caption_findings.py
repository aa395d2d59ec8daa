"""What to tell the user about captions that are drawn: what is encoded of how many, and settings that miss."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from trainer_core.config.groups import CaptionConfig
from trainer_core.data.captions.caption_file import TRIGGER_MARK
from trainer_core.data.captions.tags import split_tags
from trainer_core.data.draft import Draft
from trainer_core.data.names import join_names
from trainer_core.types import CaptionRules, Finding

_WILDCARD = re.compile(r"\{[^{}|]*\|[^{}]*\}")


def caption_findings(drafts: Sequence[Draft], caption: CaptionConfig, rules: CaptionRules) -> Iterator[Finding]:
    """Yield findings about all captions together, one a kind."""
    yield from chain(
        _wildcards(drafts, caption), _marks(drafts, caption, rules), _trigger_marks(drafts), _tags(drafts, rules)
    )


def _wildcards(drafts: Sequence[Draft], caption: CaptionConfig) -> Iterator[Finding]:
    framed = (caption.prefix, caption.suffix)
    if caption.wildcards:
        if drafts and not any("{" in text for text in framed) and not _having(drafts, lambda line: "{" in line):
            message = "is on, but no caption has a wildcard `{a|b}`: it has no effect."
            yield Finding("info", "caption.wildcards", message, "Remove it.")
        return
    found = _having(drafts, lambda line: "{" in line and _WILDCARD.search(line) is not None)
    if found:
        message = (
            f"{len(found)} caption(s) have wildcards `{{a|b}}`, which are read as they stand: {join_names(found, 5)}."
        )
        yield Finding("warning", "caption.wildcards", message, "Set it to true to choose one each draw.")


def _marks(drafts: Sequence[Draft], caption: CaptionConfig, rules: CaptionRules) -> Iterator[Finding]:
    for name in ("keep_tokens_separator", "secondary_separator"):
        mark: str = getattr(rules, name)
        if not mark or not drafts or mark in caption.prefix or mark in caption.suffix:
            continue
        if not _having(drafts, lambda line, mark=mark: mark in line):
            fix = "Put it into the captions or `caption.prefix`, or remove the setting."
            yield Finding("info", f"tags.{name}", f"no caption has {mark!r}: it has no effect.", fix)


def _trigger_marks(drafts: Sequence[Draft]) -> Iterator[Finding]:
    found = [
        draft.picture.id
        for draft in drafts
        if not draft.trigger_word.strip() and any(TRIGGER_MARK in x for x in draft.lines)
    ]
    if found:
        names = join_names(found, 5)
        message = f"{len(found)} caption(s) have {TRIGGER_MARK}, but there is no trigger word: it is left out: {names}."
        yield Finding("warning", "caption.trigger_word", message, "Set the trigger word.")


def _tags(drafts: Sequence[Draft], rules: CaptionRules) -> Iterator[Finding]:
    asked = [name for name in ("shuffle", "dropout") if getattr(rules, name)]
    sources = {draft.picture.id: draft.source for draft in drafts if draft.source is not None}
    if not asked or not sources:
        return
    split = {name: [split_tags(line, rules) for line in source.lines] for name, source in sources.items()}
    least = 2 if rules.shuffle and not rules.dropout else 1
    if not any(len(tags.loose) >= least for lines in split.values() for tags in lines):
        message = f"no caption has tags that could be moved or dropped (between {rules.separator!r}): it has no effect."
        yield Finding("warning", f"tags.{asked[0]}", message, "Lower `tags.keep_tokens`, or correct `tags.separator`.")
    whole = [name for name, lines in split.items() if any(tags.loose and len(sum(tags, ())) == 1 for tags in lines)]
    if whole and rules.dropout:
        message = f"{len(whole)} caption(s) are a single tag, which is left out whole: {join_names(whole, 5)}."
        yield Finding("warning", "tags.dropout", message, "Correct `tags.separator`, or use `caption.dropout`.")


def _having(drafts: Sequence[Draft], has: Callable[[str], bool]) -> list[str]:
    return [draft.picture.id for draft in drafts if any(has(line) for line in draft.lines)]
