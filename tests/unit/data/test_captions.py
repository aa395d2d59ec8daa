from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_core.data.captions.caption_file import (
    MAX_BYTES,
    CaptionText,
    choose_lines,
    final_caption,
    parse_caption,
    read_caption,
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_utf8_and_marked_utf16_are_read(encoding: str) -> None:
    assert parse_caption("ein Kätzchen 日本\n".encode(encoding)) == CaptionText(("ein Kätzchen 日本",))


def test_big_endian_utf16_with_a_mark_is_read() -> None:
    assert parse_caption(b"\xfe\xff" + "é".encode("utf-16-be")).lines == ("é",)


@pytest.mark.parametrize(
    "raw", ["na\xefve".encode("latin-1"), "cat".encode("utf-16-le"), "a".encode("utf-32"), b"\xff\xfe\x00", b"a\0b"]
)
def test_other_encodings_are_a_problem_that_names_the_fix(raw: bytes) -> None:
    caption = parse_caption(raw)
    assert caption.lines == ()
    assert caption.problem is not None
    assert "UTF-8" in caption.problem


def test_a_file_that_is_far_too_long_is_not_a_caption(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" * (MAX_BYTES + 1))
    assert "too long" in (read_caption(path).problem or "")


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    assert "unreadable" in (read_caption(tmp_path / "gone.txt").problem or "")
    assert "unreadable" in (read_caption(tmp_path).problem or "")
    assert not read_caption(tmp_path).lasting
    assert parse_caption(b"a\0b").lasting
    assert parse_caption(b"a").lasting


def test_blank_files_have_no_lines() -> None:
    assert parse_caption(b"") == parse_caption(b" \r\n\t\n") == CaptionText(())


def test_the_first_line_that_is_not_blank_or_all_lines_joined() -> None:
    caption = parse_caption(b"\r\n  one \r two\n\nthree")
    assert choose_lines(caption, "first_line") == "one"
    assert choose_lines(caption, "whole") == "one two three"
    assert choose_lines(CaptionText(()), "first_line") == ""


@pytest.mark.parametrize(
    ("text", "trigger", "final"),
    [
        ("a cat", "", "a cat"),
        ("a cat", "sks", "sks, a cat"),
        ("a sks cat", "sks", "a sks cat"),
        ("masks", "sks", "sks, masks"),
        ("SKS cat", "sks", "sks, SKS cat"),
        ("a (sks) cat", "(sks)", "a (sks) cat"),
        ("", " sks ", "sks"),
        ("", "", ""),
    ],
)
def test_the_trigger_word_is_put_in_front_once(text: str, trigger: str, final: str) -> None:
    assert final_caption(text, trigger) == final
    assert final_caption(final, trigger) == final


@given(st.binary(max_size=200))
def test_any_bytes_give_lines_or_a_problem_and_survive_json(raw: bytes) -> None:
    caption = parse_caption(raw)
    assert caption.problem is None or not caption.lines
    assert all(line and line == line.strip() and "\n" not in line for line in caption.lines)
    assert CaptionText.from_json(caption.to_json()) == caption
