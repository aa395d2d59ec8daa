"""Caption files and the final caption: which bytes are text, which line counts, where the trigger word goes."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from trainer_core.config.groups import CaptionConfig
from trainer_core.types import JSON

UNREADABLE = "caption unreadable"
MAX_BYTES = 1 << 20
"""A longer file is not a caption."""
TRIGGER_MARK = "[trigger]"
"""Stands for the trigger word in captions, as in ai-toolkit's."""
CAPTIONS_VERSION = 1
"""Raise it when `read_caption` gives other lines for the same bytes: remembered captions are read again."""


Multiline = Literal["first_line", "whole", "each", "random"]


@dataclass(frozen=True)
class CaptionText:
    """A caption file: its lines without blank ones, stripped; or `problem`, the reason why it cannot be used."""

    lines: tuple[str, ...]
    problem: str | None = None

    @property
    def lasting(self) -> bool:
        """Whether this is true of the bytes for ever; False where reading failed: never remember that."""
        return self.problem is None or not self.problem.startswith(UNREADABLE)

    def to_json(self) -> JSON:
        """Return the JSON form, for remembering it by the content of the file."""
        return {"lines": list(self.lines), "problem": self.problem}

    @classmethod
    def from_json(cls, value: JSON) -> CaptionText:
        """Invert `to_json`."""
        return cls(tuple(value["lines"]), value["problem"])


def read_caption(path: Path) -> CaptionText:
    """Read a caption file. Never raises: what is wrong with it is its `problem`."""
    try:
        with path.open("rb") as file:
            return parse_caption(file.read(MAX_BYTES + 1))
    except OSError as error:
        return CaptionText((), f"{UNREADABLE}: {error.strerror or error}")


def parse_caption(raw: bytes) -> CaptionText:
    r"""Decode the bytes of a caption file: UTF-8 with or without a byte-order mark, or UTF-16 with one.

    Lines end with \n, \r\n or \r. Nothing is guessed: other encodings would train on garbage without a word.
    """
    if len(raw) > MAX_BYTES:
        return CaptionText((), f"caption too long: the file has more than {MAX_BYTES} bytes; is it a caption?")
    utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = raw.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"byte {raw[error.start]:#04x} at {error.start}" if error.start < len(raw) else "cut off"
        return CaptionText((), f"caption is not UTF-8: {where}; save the file as UTF-8")
    if "\0" in text:
        return CaptionText((), "caption is not UTF-8: it contains NUL characters; save the file as UTF-8")
    return CaptionText(split_lines(text))


def split_lines(text: str) -> tuple[str, ...]:
    r"""Return the lines of a caption that are not blank, stripped; they end with \n, \r\n or \r."""
    lines = (line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    return tuple(line for line in lines if line)


def choose_lines(caption: CaptionText, multiline: Multiline) -> str:
    """Return a caption file's first line that is not blank, or all lines joined by spaces; "" if it is empty."""
    return " ".join(caption.lines if multiline == "whole" else caption.lines[:1])


def candidate_lines(caption: CaptionText, multiline: Multiline) -> tuple[str, ...]:
    """Return the lines that draws take one of: all of them, or the one text of `choose_lines`."""
    if multiline in ("each", "random") and caption.lines:
        return caption.lines
    return (choose_lines(caption, multiline),)


def frame_caption(text: str, caption: CaptionConfig, trigger_word: str) -> str:
    """Return a line with prefix and suffix, and with the trigger word wherever it has `[trigger]`.

    Without a trigger word `[trigger]` is taken out, with its comma.
    """
    framed = text
    if caption.prefix or caption.suffix:
        framed = " ".join(part for part in (caption.prefix, text, caption.suffix) if part)
    if TRIGGER_MARK not in framed:
        return framed
    trigger = trigger_word.strip()
    return framed.replace(TRIGGER_MARK, trigger) if trigger else _taken_out(framed, re.escape(TRIGGER_MARK))


def final_caption(text: str, trigger_word: str) -> str:
    """Put the trigger word and a comma before the text, unless it has that word (whole, in the same case)."""
    trigger = trigger_word.strip()
    if not trigger or _whole_word(trigger).search(text):
        return text
    return f"{trigger}, {text}" if text else trigger


def class_caption(caption: str, trigger_word: str, class_word: str) -> str:
    """Return a caption with the class in place of the trigger word; the class alone where it has no such word.

    A caption without the trigger word is one that the base may know: what it gives for that is what is trained, and
    only the class is left to be kept.
    """
    trigger, class_word = trigger_word.strip(), class_word.strip()
    if not trigger or not _whole_word(trigger).search(caption):
        return class_word
    word = _whole_word(trigger)
    return word.sub(lambda _: class_word, caption) if class_word else _taken_out(caption, word.pattern)


@lru_cache(maxsize=16)
def _whole_word(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")


def _taken_out(text: str, pattern: str) -> str:
    """Remove what matches, with the comma and blanks that then stand for nothing."""
    return re.sub(rf"(?:{pattern})(\s*,)?\s*", "", text).strip(" ,")
