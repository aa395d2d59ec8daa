"""Tags: the parts of a caption between separators, some kept in place, the others moved and dropped.

The order of things is kohya's (`process_caption`). Three things differ: empty tags vanish, tags are joined by the
separator that they had and not always by a comma, and a mark never stays in the text, however many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from trainer_core.types import CaptionRules


class Tags(NamedTuple):
    """The tags of a caption, stripped, without empty ones."""

    head: tuple[str, ...]
    """At the front: neither moved nor dropped."""
    loose: tuple[str, ...]
    """Moved and dropped."""
    tail: tuple[str, ...] = ()
    """At the end: neither moved nor dropped."""


@lru_cache(maxsize=256)
def split_tags(text: str, rules: CaptionRules) -> Tags:
    """Take a caption apart.

    A caption with the mark `keep_tokens_separator` is `head MARK loose` or `head MARK loose MARK tail`; of one without
    it the first `keep_tokens` tags are the head.
    """
    mark = rules.keep_tokens_separator
    if not mark or mark not in text:
        tags = _cut(text, rules.separator)
        return Tags(tags[: rules.keep_tokens], tags[rules.keep_tokens :])
    head, loose, *tail = (_cut(part, rules.separator) for part in text.split(mark))
    return Tags(head, loose, tuple(tag for part in tail for tag in part))


def join_tags(tags: Tags, loose: Sequence[str], rules: CaptionRules) -> str:
    """Return the text of the kept tags of `tags` around those of `loose`, each group of joined tags opened."""
    glue = f"{rules.separator.strip()} " if rules.separator.strip() else rules.separator
    return open_groups(glue.join((*tags.head, *loose, *tags.tail)), rules)


def open_groups(text: str, rules: CaptionRules) -> str:
    """Replace `secondary_separator`, which joined tags to one, by the separator."""
    secondary = rules.secondary_separator
    return text.replace(secondary, rules.separator) if secondary else text


def without_marks(text: str, rules: CaptionRules) -> str:
    """Return a caption with all its tags in their places and no mark; one that has no mark stays as it is written."""
    if rules.keep_tokens_separator and rules.keep_tokens_separator in text:
        tags = split_tags(text, rules)
        return join_tags(tags, tags.loose, rules)
    return open_groups(text, rules)


def _cut(text: str, separator: str) -> tuple[str, ...]:
    return tuple(tag for part in text.split(separator) if (tag := part.strip()))
