"""The samples grid: where things go, and that text stays in its place."""

from __future__ import annotations

import pytest
from PIL import Image, ImageChops

from trainer_core.sampling.grid import GridLayout, control_column, layout, make_grid

LONG = "a prompt that goes on and on, " * 60
PICTURE = (200, 30, 60)


def grid(prompts: list[str], headings: list[str], size: tuple[int, int] = (64, 64)) -> Image.Image:
    columns = {heading: [Image.new("RGB", size, PICTURE) for _ in prompts] for heading in headings}
    return make_grid(columns, prompts, list(range(len(prompts))))


def inked(picture: Image.Image, box: tuple[int, int, int, int]) -> bool:
    part = picture.crop(box)
    paper = Image.new("RGB", part.size, picture.getpixel((0, 0)))
    return ImageChops.difference(part, paper).getbbox() is not None


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_any_number_of_columns_has_room(count: int) -> None:
    plan = layout((64, 64), count, 2)
    assert plan.left(count - 1) + plan.cell[0] + plan.gap == plan.size[0]
    assert all(plan.left(column) + plan.cell[0] < plan.left(column + 1) for column in range(count - 1))
    assert plan.top(1) + plan.row_height + plan.gap == plan.size[1]


def test_small_pictures_are_enlarged_by_a_whole_factor_and_large_ones_are_not() -> None:
    assert (layout((64, 48), 2, 1).factor, layout((64, 48), 2, 1).cell) == (3, (192, 144))
    assert layout((1024, 768), 2, 1).cell == (1024, 768)


def test_letters_grow_with_the_pictures() -> None:
    assert layout((64, 64), 2, 1).text < layout((1024, 1024), 2, 1).text


@pytest.mark.parametrize("size", [(64, 64), (320, 40), (768, 512)])
@pytest.mark.parametrize("prompt", [LONG, "w" * 3000, "", "\n\n", "日本語" * 200])
def test_a_prompt_stays_in_its_row_and_its_column(prompt: str, size: tuple[int, int]) -> None:
    plan = layout(size, 2, 3)
    drawn = grid(["first", prompt, "last"], ["base", "LoRA 1"], size)
    assert drawn.size == plan.size
    above, own, below = (_label(plan, row) for row in range(3))
    assert all(inked(drawn, box) for box in (above, own, below))
    # The gap below a row holds the rule alone, and the gap before the pictures nothing.
    gap = (0, own[3], plan.label, below[1])
    assert _rows_with_ink(drawn, gap) <= 1
    assert not inked(drawn, (plan.gap + plan.label, own[1], plan.left(0), own[3]))


def test_the_seed_is_told_under_the_longest_prompt() -> None:
    plan = layout((64, 64), 1, 1)
    one = make_grid({"base": [Image.new("RGB", (64, 64))]}, [LONG], [1])
    other = make_grid({"base": [Image.new("RGB", (64, 64))]}, [LONG], [2])
    box = ImageChops.difference(one, other).getbbox()
    assert box is not None
    assert plan.top(0) + plan.prompt_lines * plan.line <= box[1] < box[3] <= plan.top(0) + plan.row_height


def test_the_largest_seed_is_readable_to_its_last_digit() -> None:
    one, other = (make_grid({"base": [Image.new("RGB", (64, 64))]}, ["x"], [2**63 - 1 - last]) for last in (0, 1))
    assert ImageChops.difference(one, other).getbbox() is not None


def test_a_long_heading_stays_above_its_column() -> None:
    plan = layout((64, 64), 3, 1)
    drawn = grid(["x"], ["base", "LoRA " + "9" * 200, "LoRA 1"])
    for column in (0, 1):
        between = (plan.left(column) + plan.cell[0], 0, plan.left(column + 1), plan.header)
        assert not inked(drawn, between)


def test_every_picture_lies_where_the_layout_says() -> None:
    plan = layout((64, 64), 3, 2)
    drawn = grid(["x", "y"], ["base", "LoRA 0.5", "LoRA 1"])
    for column in range(3):
        for row in range(2):
            left, top = plan.left(column), plan.top(row)
            cell = drawn.crop((left, top, left + plan.cell[0], top + plan.cell[1]))
            assert cell.getcolors() == [(plan.cell[0] * plan.cell[1], PICTURE)]


def _label(plan: GridLayout, row: int) -> tuple[int, int, int, int]:
    top = plan.top(row)
    return (0, top, plan.gap + plan.label, top + plan.row_height)


def _rows_with_ink(picture: Image.Image, box: tuple[int, int, int, int]) -> int:
    left, top, right, bottom = box
    return sum(inked(picture, (left, row, right, row + 1)) for row in range(top, bottom))


def test_control_pictures_are_shown_whole_in_a_column_of_their_own() -> None:
    red, blue = Image.new("RGB", (40, 20), "red"), Image.new("RGB", (10, 30), "blue")
    columns = control_column([(red,), (red, blue), ()], (64, 48))
    assert list(columns) == ["controls"]
    one, two, none = columns["controls"]
    assert all(cell.size == (64, 48) for cell in (one, two, none))
    assert one.getpixel((32, 24)) == (255, 0, 0) and one.getpixel((32, 2)) != (255, 0, 0)
    assert two.getpixel((16, 24)) == (255, 0, 0) and two.getpixel((48, 24)) == (0, 0, 255)
    assert len(none.getcolors() or []) == 1


def test_there_is_no_such_column_where_nothing_is_edited() -> None:
    assert control_column((), (64, 48)) == {}
    assert control_column([(), ()], (64, 48)) == {}
    assert list(control_column([(Image.new("RGB", (8, 8)),)], (64, 48))) == ["control"]
