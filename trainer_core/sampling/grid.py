"""Pictures side by side with their prompts, as one PNG."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageOps

from trainer_core.data.reports.text_layout import clip, font, line_height, one_line, wrap

_SMALLEST = 160
"""Cells narrower than this are enlarged by a whole factor, so that pictures of tiny models are large enough to see."""
_TEXT, _TEXT_SHARE = 14, 28
"""Smallest height of the letters, and how many of them go into a cell's width: a grid is viewed as a whole."""
_LEAST_LINES = 4
"""A row is high enough for as many lines of its prompt, and one for the seed."""
_PAPER, _INK, _PALE, _RULE = "#f6f7f9", "#1c2127", "#69727d", "#d5dae0"


@dataclass(frozen=True)
class GridLayout:
    """Where everything goes, in pixels."""

    text: int
    """Height of the letters."""
    line: int
    """From one line of text to the next."""
    gap: int
    label: int
    """Width of the prompts' column."""
    header: int
    cell: tuple[int, int]
    """Width and height of an enlarged picture."""
    factor: int
    columns: int
    rows: int

    @property
    def row_height(self) -> int:
        """Height of a row without the gap: of the picture, or of the text beside a flat one."""
        return max(self.cell[1], (_LEAST_LINES + 1) * self.line)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole."""
        width = self.gap + self.label + self.columns * (self.gap + self.cell[0]) + self.gap
        return width, self.header + self.rows * (self.row_height + self.gap)

    @property
    def prompt_lines(self) -> int:
        """Lines of a prompt that fit above the seed."""
        return self.row_height // self.line - 1

    def left(self, column: int) -> int:
        """Left edge of a column's pictures."""
        return 2 * self.gap + self.label + column * (self.cell[0] + self.gap)

    def top(self, row: int) -> int:
        """Upper edge of a row."""
        return self.header + row * (self.row_height + self.gap)


def layout(picture: tuple[int, int], columns: int, rows: int) -> GridLayout:
    """Return where everything goes for pictures of (width, height) pixels."""
    factor = max(1, -(-_SMALLEST // picture[0]))
    cell = (picture[0] * factor, picture[1] * factor)
    text = max(_TEXT, cell[0] // _TEXT_SHARE)
    line = line_height(font(text))
    return GridLayout(text, line, text, text * 16, 2 * text + line, cell, factor, columns, rows)


def make_grid(
    columns: Mapping[str, Sequence[Image.Image]], prompts: Sequence[str], seeds: Sequence[int]
) -> Image.Image:
    """Lay out one row a prompt and one column a set of pictures.

    Args:
        columns: heading -> pictures, as many as prompts. Smaller ones lie in the middle of their cells.
        prompts: text at the left of each row, wrapped, and clipped where it is longer than its row is high.
        seeds: seed of each row, written under its prompt.
    """
    plan = layout(largest(columns.values()), len(columns), len(prompts))
    grid = Image.new("RGB", plan.size, _PAPER)
    draw = ImageDraw.Draw(grid)
    for column, (heading, pictures) in enumerate(columns.items()):
        _heading(draw, plan, column, heading)
        for row, picture in enumerate(pictures):
            size = (picture.width * plan.factor, picture.height * plan.factor)
            enlarged = picture.resize(size, Image.Resampling.NEAREST) if plan.factor > 1 else picture
            left, top = ((cell - side) // 2 for cell, side in zip(plan.cell, size, strict=True))
            grid.paste(enlarged, (plan.left(column) + left, plan.top(row) + top))
    for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        _label(draw, plan, row, prompt, seed)
    return grid


def largest(columns: Iterable[Sequence[Image.Image]]) -> tuple[int, int]:
    """Return the (width, height) that every picture fits into."""
    pictures = [picture for column in columns for picture in column]
    return max(picture.width for picture in pictures), max(picture.height for picture in pictures)


def control_column(controls: Sequence[Sequence[Image.Image]], size: tuple[int, int]) -> dict[str, list[Image.Image]]:
    """Return a column of control pictures for `make_grid`; none where no row has any.

    Args:
        controls: of each row, side by side in one cell.
        size: (width, height) of the pictures beside them.
    """
    if not any(controls):
        return {}
    heading = "control" if max(map(len, controls)) == 1 else "controls"
    return {heading: [_beside(pictures, size) for pictures in controls]}


def _beside(pictures: Sequence[Image.Image], size: tuple[int, int]) -> Image.Image:
    """Lay pictures side by side, each whole, on paper of one cell."""
    cell = Image.new("RGB", size, _PAPER)
    width = size[0] // max(1, len(pictures))
    for number, picture in enumerate(pictures):
        small = ImageOps.contain(picture.convert("RGB"), (max(1, width), size[1]), Image.Resampling.LANCZOS)
        cell.paste(small, (number * width + (width - small.width) // 2, (size[1] - small.height) // 2))
    return cell


def _heading(draw: ImageDraw.ImageDraw, plan: GridLayout, column: int, heading: str) -> None:
    used = font(plan.text, bold=True)
    middle = plan.left(column) + plan.cell[0] / 2
    text = clip(one_line(heading), used, plan.cell[0])
    draw.text((middle, plan.header / 2), text, fill=_INK, font=used, anchor="mm")


def _label(draw: ImageDraw.ImageDraw, plan: GridLayout, row: int, prompt: str, seed: int) -> None:
    top, used = plan.top(row), font(plan.text)
    lines = wrap(prompt, used, plan.label, plan.prompt_lines) or ["(no prompt)"]
    for number, line in enumerate(lines):
        draw.text((plan.gap, top + number * plan.line), line, fill=_INK, font=used)
    below = top + len(lines) * plan.line
    draw.text((plan.gap, below), clip(f"seed {seed}", used, plan.label), fill=_PALE, font=used)
    if row:
        middle = top - plan.gap // 2
        draw.line((plan.gap, middle, plan.size[0] - plan.gap, middle), fill=_RULE)
