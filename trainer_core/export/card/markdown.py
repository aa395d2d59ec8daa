"""Text of users as Markdown: shown as it is, whatever marks it holds."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

# An underscore between letters is one, so names of settings stay readable in the source.
_SPECIAL = re.compile(r"([\\`*\[\]<>|~&$]|(?<![^\W_])_|_(?![^\W_]))")
_BLOCK = re.compile(r"^(?=[-+=#])|^(\d{1,9})(?=[.)])")


def inline(text: str) -> str:
    """Return text that Markdown shows as it is, in one line, in tables too."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def item(text: str) -> str:
    """Return text for a list item, where a leading `#`, dash or number would begin a block of its own."""
    return _BLOCK.sub(r"\1\\", inline(text))


def code(text: str) -> str:
    """Return a code span; a name with a backtick in it is plain text instead."""
    return inline(text) if "`" in text or "|" in text else f"`{text}`"


def literal(value: object) -> str:
    """Return a Python literal in double quotes, in one line."""
    return json.dumps(value, ensure_ascii=False)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table with one line a row."""
    lines = [list(head), ["---"] * len(head), *([inline(str(value)) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
