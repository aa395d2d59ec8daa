"""Pictures as Markdown, for there is no metadata type for them.

The UI shows up to 1,000 characters of Markdown in line, and longer ones behind "Show Markdown".
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

INLINE_CHARACTERS = 1000
_WIDTH, _HEIGHT, _POINTS = 240, 60, 48
_SIDES = (1024, 720)
"""Largest width and height: what fits into the dialog on a laptop's screen."""


def sparkline(values: Sequence[float], title: str) -> dg.MetadataValue:
    """Draw values as a small curve, short enough to be shown in line.

    Args:
        values: finite numbers, in order; more than 48 are averaged in groups.
        title: alternative text.
    """
    if not values:
        return dg.MetadataValue.md("nothing was logged")
    points = _averaged(values)
    low, high = min(points), max(points)
    across, span = _WIDTH / max(1, len(points) - 1), (high - low) or 1.0
    coordinates = " ".join(
        f"{i * across:.0f},{_HEIGHT - (value - low) / span * _HEIGHT:.0f}" for i, value in enumerate(points)
    )
    drawing = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -2 {_WIDTH} {_HEIGHT + 4}" width="{_WIDTH}">'
        f'<polyline fill="none" stroke="#4c78a8" points="{coordinates}"/></svg>'
    )
    text = _image(drawing.encode(), "svg+xml", title)
    assert len(text) < INLINE_CHARACTERS, len(text)
    return dg.MetadataValue.md(text)


def picture(path: Path, title: str) -> dg.MetadataValue:
    """Show a PNG as it is. It should be small, because Dagster keeps it in its database."""
    return dg.MetadataValue.md(_image(path.read_bytes(), "png", title))


def thumbnail(path: Path, title: str) -> dg.MetadataValue:
    """Show a picture no larger than 1,024 x 720 pixels, as JPEG: Dagster keeps it in its database."""
    from PIL import Image

    stream = io.BytesIO()
    with Image.open(path) as opened:
        small = opened.convert("RGB")
    small.thumbnail(_SIDES)
    small.save(stream, "JPEG", quality=80)
    return dg.MetadataValue.md(_image(stream.getvalue(), "jpeg", title))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> dg.MetadataValue:
    """Return a Markdown table."""
    cells = [list(head), ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(row)} |" for row in cells))


def _cell(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _averaged(values: Sequence[float]) -> list[float]:
    size = -(-len(values) // _POINTS)
    groups = [values[start : start + size] for start in range(0, len(values), size)]
    return [sum(group) / len(group) for group in groups]


def _image(data: bytes, kind: str, title: str) -> str:
    return f"![{title}](data:image/{kind};base64,{base64.b64encode(data).decode()})"
