"""What looking at a dataset folder gives: the pictures, those left out with the reason, and things to tell the user."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from trainer_core.config.groups import DatasetConfig
from trainer_core.types import FileStat, Finding


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
    """One dataset folder as it lies on disk, with the settings of the dataset."""

    name: str
    root: Path
    layout: str
    dataset: DatasetConfig
    pictures: tuple[PictureFile, ...]
    excluded: tuple[Exclusion, ...]
    findings: tuple[Finding, ...]

    @property
    def held_out(self) -> float:
        """Share of the pictures to keep out of training, in [0, 1]; regularisation pictures are never held out."""
        return 0.0 if self.dataset.regularisation else self.dataset.held_out
