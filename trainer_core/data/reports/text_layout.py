"""Text on the pictures that people look at: fonts, wrapping and clipping by measured width. Imports Pillow."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

ELLIPSIS = "…"


@lru_cache(maxsize=32)
def font(size: int, bold: bool = False) -> Font:
    """Return DejaVu Sans of `size` pixels, which matplotlib brings; Pillow's own font knows Latin letters only."""
    found = find_spec("matplotlib")
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    for folder in (found.submodule_search_locations if found else None) or ():
        path = Path(folder) / "mpl-data" / "fonts" / "ttf" / name
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def line_height(used: Font) -> int:
    """Return the distance in pixels from one line of text to the next."""
    left, top, right, bottom = used.getbbox("Ágjp|")
    assert right > left
    return round((bottom - top) * 1.3)


def one_line(text: str) -> str:
    """Return text that can be drawn in one line: no line breaks, and "?" for half a surrogate pair."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def clip(text: str, used: Font, width: float) -> str:
    """Return as much of the text's beginning as fits into `width` pixels, with an ellipsis if that is not all."""
    if used.getlength(text) <= width:
        return text
    # The first cut too long: candidates grow with their length.
    fitting = bisect_right(range(len(text)), width, key=lambda end: used.getlength(text[:end].rstrip() + ELLIPSIS))
    return text[: max(0, fitting - 1)].rstrip() + ELLIPSIS if fitting else ""


def clip_middle(text: str, used: Font, width: float) -> str:
    """Return a name that fits into `width` pixels; of a longer one the two ends, as names differ in their endings."""
    if used.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        head = kept // 2
        shorter = text[:head].rstrip() + ELLIPSIS + text[len(text) - (kept - head) :]
        if used.getlength(shorter) <= width:
            return shorter
    return clip(text, used, width)


def wrap(text: str, used: Font, width: float, lines: int) -> list[str]:
    """Break text at spaces, and words that are too long anywhere, into lines of at most `width` pixels.

    Args:
        text: what to write.
        used: the font that measures it.
        width: in pixels.
        lines: most lines returned; the last ends with an ellipsis where text was left out.
    """
    found: list[str] = []
    rest = one_line(text)
    while rest and len(found) < lines:
        if len(found) == lines - 1:
            found.append(clip(rest, used, width))
            break
        end = _fitting(rest, used, width)
        found.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return found


def _fitting(text: str, used: Font, width: float) -> int:
    """Return how many characters go onto one line: up to the last space that fits, and at least one."""
    if used.getlength(text) <= width:
        return len(text)
    end = max(1, bisect_right(range(1, len(text) + 1), width, key=lambda count: used.getlength(text[:count])))
    space = text.rfind(" ", 0, end + 1)
    return space if space > 0 else end
