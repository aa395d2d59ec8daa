from __future__ import annotations

import base64
import re
from pathlib import Path
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lora_assets.assets.pictures import INLINE_CHARACTERS, sparkline, table, thumbnail


def decoded(markdown: str) -> bytes:
    found = re.fullmatch(r"!\[[^\]]*\]\(data:image/[a-z+]+;base64,([A-Za-z0-9+/=]+)\)", markdown)
    assert found is not None
    return base64.b64decode(found[1])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3000))
def test_any_curve_is_short_enough_to_be_shown_in_line(values: list[float]) -> None:
    text = sparkline(values, "loss over steps").value
    assert len(text or "") < INLINE_CHARACTERS
    drawing = ElementTree.fromstring(decoded(text or ""))
    points = drawing[0].attrib["points"].split()
    assert 1 <= len(points) <= 48
    assert all(0 <= float(y) <= 60 for y in (point.split(",")[1] for point in points))


def test_a_falling_loss_falls_in_the_picture() -> None:
    drawing = ElementTree.fromstring(decoded(sparkline([3.0, 2.0, 1.0], "loss").value or ""))
    assert drawing[0].attrib["points"] == "0,0 120,30 240,60"


def test_no_losses_are_no_picture() -> None:
    assert sparkline([], "loss").value == "nothing was logged"


def test_a_large_grid_is_kept_small(tmp_path: Path) -> None:
    Image.effect_noise((4000, 3000), 80).save(tmp_path / "grid.png")
    data = decoded(thumbnail(tmp_path / "grid.png", "grid").value or "")
    (tmp_path / "small.jpg").write_bytes(data)
    with Image.open(tmp_path / "small.jpg") as small:
        assert small.size == (960, 720)
    assert len(data) < 600_000


def test_a_cell_cannot_break_its_table() -> None:
    assert table(("a", "b"), [("x|y", "1\n2")]).value == "| a | b |\n| --- | --- |\n| x\\|y | 1 2 |"
