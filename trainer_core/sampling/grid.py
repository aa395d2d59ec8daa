"""Pictures side by side with their prompts, as one PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

_MARGIN, _CAPTION, _HEADER = 12, 200, 30
_SMALLEST = 160
"""Cells narrower than this are enlarged by a whole factor, so that tiny models can be looked at."""


def make_grid(
    columns: Mapping[str, Sequence[Image.Image]], prompts: Sequence[str], seeds: Sequence[int]
) -> Image.Image:
    """Lay out one row a prompt and one column a set of pictures.

    Args:
        columns: heading -> pictures, all of one size, as many as prompts.
        prompts: text at the left of each row.
        seeds: seed of each row, told under its prompt.
    """
    first = next(iter(columns.values()))[0]
    factor = max(1, -(-_SMALLEST // first.width))
    width, height = first.width * factor, max(first.height * factor, 90)
    total = (
        _CAPTION + len(columns) * (width + _MARGIN) + _MARGIN,
        _HEADER + len(prompts) * (height + _MARGIN) + _MARGIN,
    )
    grid = Image.new("RGB", total, "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(14)
    for column, (heading, pictures) in enumerate(columns.items()):
        left = _CAPTION + column * (width + _MARGIN)
        draw.text((left, 8), heading, fill="black", font=font)
        for row, picture in enumerate(pictures):
            cell = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
            grid.paste(cell, (left, _HEADER + row * (height + _MARGIN)))
    for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        text = "\n".join([*textwrap.wrap(prompt, 24)[:4], f"seed {seed}"])
        draw.multiline_text((_MARGIN, _HEADER + row * (height + _MARGIN)), text, fill="black", font=font)
    return grid
