"""Names of files and samples in messages: escaped, listed, counted."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice

MAX_NAMES = 20
"""How many names one finding lists; it counts the rest."""


def printable(text: str) -> str:
    """Escape what a terminal, JSON or SQLite cannot carry: undecodable bytes of file names and control characters."""
    if text.isprintable():
        return text
    text = os.fsencode(text).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def join_names(names: Iterable[str], limit: int = MAX_NAMES) -> str:
    """Join names for a message: `a.png, b.png and 7 more`."""
    listed = sorted(names)
    text = ", ".join(printable(name) for name in islice(listed, limit))
    return f"{text} and {len(listed) - limit} more" if len(listed) > limit else text


def pluralize(count: int, noun: str) -> str:
    """Return a number with a noun that takes an s: `1 picture`, `3 pictures`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def stem_of(name: str) -> str:
    """Return a relative file name without its extension."""
    return name.rpartition(".")[0]
