from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_core.data.reports.text_layout import ELLIPSIS, clip, clip_middle, font, line_height, one_line, wrap

USED = font(14)
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=120)


@given(WORDS, st.integers(30, 400), st.integers(1, 6))
def test_wrapped_lines_fit_and_nothing_is_lost_without_an_ellipsis(text: str, width: int, lines: int) -> None:
    found = wrap(text, USED, width, lines)
    assert len(found) <= lines
    assert all(USED.getlength(line) <= width for line in found)
    kept, whole = "".join("".join(found).split()), "".join(one_line(text).split())
    assert kept == whole or (kept.endswith(ELLIPSIS) and whole.startswith(kept[: -len(ELLIPSIS)]))


@given(WORDS.map(one_line), st.integers(20, 300))
def test_clipped_text_fits_and_says_that_it_is_clipped(text: str, width: int) -> None:
    for clipped in (clip(text, USED, width), clip_middle(text, USED, width)):
        assert USED.getlength(clipped) <= width
        assert clipped == text or ELLIPSIS in clipped


def test_words_stay_whole_where_they_fit() -> None:
    assert wrap("a small cat on the moon", USED, USED.getlength("a small cat on"), 3) == ["a small cat on", "the moon"]


def test_long_names_keep_the_end_in_which_they_differ() -> None:
    names = [f"a_very_long_common_beginning_of_names_{number:03d}.png" for number in range(20)]
    clipped = [clip_middle(name, USED, 120) for name in names]
    assert len(set(clipped)) == 20
    assert all(name.startswith("a_ver") and name.endswith(".png") for name in clipped)


def test_nothing_fits_into_nothing() -> None:
    assert clip("cat", USED, 1) == clip_middle("cat", USED, 1) == ""


@pytest.mark.parametrize(("text", "shown"), [(" a\nb\tc ", "a b c"), ("a\udc80.png", "a?.png")])
def test_text_from_files_can_be_drawn_in_one_line(text: str, shown: str) -> None:
    assert one_line(text) == shown
    USED.getmask(one_line(text))


def test_letters_other_than_latin_have_shapes_of_their_own() -> None:
    assert len({bytes(USED.getmask(letter)) for letter in "ЖФΩλ\uffff"}) == 5


def test_lines_do_not_touch() -> None:
    top, bottom = USED.getbbox("Ágjp")[1::2]
    assert line_height(USED) > bottom - top
