"""Wildcards: `{a|b|c}` in a caption stands for one of its choices; `{{` and `}}` stand for the braces themselves.

The grammar is kohya's: choices are taken as they are, blanks included; braces do not nest; `{}` and a brace without its
partner are text. A choice that stands twice is twice as likely, one without `|` is the text itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_OPEN, _CLOSE = "\0(", "\0)"
"""Stand for doubled braces while single ones are looked for: caption files with NUL are refused."""
_WILDCARD = re.compile(r"\{([^}]+)\}")


@lru_cache(maxsize=4096)
def parse_wildcards(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the parts of a text in order, each with its choices: text between wildcards has one."""
    hidden = text.replace("{{", _OPEN).replace("}}", _CLOSE)
    # Text and insides of wildcards take turns.
    pieces = _WILDCARD.split(hidden)
    parts = [[piece] if number % 2 == 0 else piece.split("|") for number, piece in enumerate(pieces)]
    return tuple(tuple(_shown(choice) for choice in part) for part in parts if part != [""])


def choices_in(text: str) -> list[int]:
    """Return how many choices each wildcard of a text has."""
    return [len(part) for part in parse_wildcards(text) if len(part) > 1]


def fill_in(text: str, chosen: Sequence[int]) -> str:
    """Return the text with the choice of each wildcard that `chosen` names, in order."""
    left = iter(chosen)
    return "".join(part[next(left) if len(part) > 1 else 0] for part in parse_wildcards(text))


def first_choices(text: str) -> str:
    """Return the text with the first choice of each wildcard."""
    return "".join(part[0] for part in parse_wildcards(text))


def _shown(text: str) -> str:
    return text.replace(_OPEN, "{").replace(_CLOSE, "}")
