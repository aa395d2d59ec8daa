"""What looking at a dataset folder gives: the pictures, those left out with the reason, and things to tell the user."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from trainer_core.types import FileStat, Finding

MAX_NAMES = 20
"""How many files one finding names; it counts the rest."""


class ControlFile(NamedTuple):
    """A control picture's file, as absolute path. It has not been opened."""

    file: str
    stat: FileStat

    @property
    def path(self) -> Path:
        """The picture."""
        return Path(self.file)


class MaskFile(NamedTuple):
    """A mask's file, as absolute path; with `alpha`, the picture itself, whose alpha channel is the mask."""

    file: str
    stat: FileStat
    alpha: bool = False

    @property
    def path(self) -> Path:
        """The mask."""
        return Path(self.file)


class PictureFile(NamedTuple):
    """A file that looks like a picture we can decode. It has not been opened.

    `repeats` is the folder's (kohya) times the dataset's. `inline_caption` comes from metadata or, in kohya folders,
    from the class tokens, and goes before the file `caption_file`; None when there is none. Files are absolute paths as
    text: making `Path` objects of 100,000 files would take longer than listing them.
    """

    id: str
    file: str
    stat: FileStat
    repeats: int
    caption_file: str | None = None
    caption_stat: FileStat | None = None
    inline_caption: str | None = None
    mask: MaskFile | None = None
    """What of it is trained, where not all of it is."""
    controls: tuple[ControlFile, ...] = ()
    """The pictures that it is the edit of, in order."""

    @property
    def path(self) -> Path:
        """The picture."""
        return Path(self.file)


@dataclass(frozen=True)
class Exclusion:
    """A picture that is not trained on: `path` is its sample id, `reason` "cause: detail"."""

    path: str
    reason: str

    @property
    def cause(self) -> str:
        """The part of the reason that many pictures can share."""
        return self.reason.partition(":")[0]


@dataclass(frozen=True)
class Discovery:
    """One dataset folder as it lies on disk; `held_out` is the share the user wants kept out of training."""

    name: str
    root: Path
    layout: str
    held_out: float
    pictures: tuple[PictureFile, ...]
    excluded: tuple[Exclusion, ...]
    findings: tuple[Finding, ...]
    trigger_word: str | None = None
    """In place of the project's."""
    held_out_group: str = ""
    resolutions: tuple[int, ...] = ()
    """In place of the project's."""
    regularisation: bool = False
    loss_weight: float = 1.0


def printable(text: str) -> str:
    """Escape what a terminal, JSON or SQLite cannot carry: undecodable bytes of file names and control characters."""
    if text.isprintable():
        return text
    text = os.fsencode(text).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def join_names(names: Iterable[str], limit: int = MAX_NAMES) -> str:
    """Join names for a message: `a.png, b.png and 7 more`."""
    listed = sorted(names)
    text = ", ".join(printable(name) for name in islice(listed, limit))
    return f"{text} and {len(listed) - limit} more" if len(listed) > limit else text


def pluralize(names: Sequence[str] | Iterable[str], noun: str) -> str:
    """Count with a noun that takes an s: `1 picture`, `3 pictures`."""
    number = len(tuple(names))
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
