"""The layouts a dataset folder can have, and what each says of a picture's repeats and caption."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from trainer_core.data.discovery.file_kinds import FilesByKind, caption_file_of
from trainer_core.data.discovery.metadata import MetadataTable
from trainer_core.data.discovery.walk import File
from trainer_core.data.names import printable

LayoutName = Literal["flat", "kohya", "imagefolder"]
KOHYA_FOLDER = re.compile(r"([0-9]+)_(.+)")
MAX_REPEATS = 10_000


class LayoutEntry(NamedTuple):
    """What the layout says of a picture: repeats of its folder, and a caption that needs no file."""

    repeats: int
    inline_caption: str | None


ONCE = LayoutEntry(1, None)


class KohyaFolder(NamedTuple):
    """`10_a cat`: repeats 10, class tokens `a cat`."""

    repeats: int
    tokens: str


def detect_layout(shelves: FilesByKind) -> LayoutName:
    """Tell the layout: metadata anywhere, else a child folder `N_concept` with pictures, else flat."""
    if shelves.metadata:
        return "imagefolder"
    if any(kohya_folder(file) is not None for file in shelves.pictures):
        return "kohya"
    return "flat"


def kohya_folder(file: File) -> KohyaFolder | None:
    """Return what the first folder of a file's path says (split at the first `_`); None if it is no kohya folder."""
    child, slash, _ = file.folder.partition("/")
    match = KOHYA_FOLDER.fullmatch(child) if slash else None
    if match is None or not 1 <= int(match[1]) <= MAX_REPEATS:
        return None
    return KohyaFolder(int(match[1]), match[2].strip())


def flat_entry(file: File, shelves: FilesByKind, table: MetadataTable) -> LayoutEntry | str:
    """Every picture once, its caption in the sidecar."""
    return ONCE


def kohya_entry(file: File, shelves: FilesByKind, table: MetadataTable) -> LayoutEntry | str:
    """Repeats and, for pictures without a sidecar, the caption from the folder's name (kohya's rule)."""
    folder = kohya_folder(file)
    if folder is None:
        where = printable(file.folder) or "the top folder"
        return f"outside kohya folders: {where} is not named N_concept with N from 1 to {MAX_REPEATS}"
    return LayoutEntry(folder.repeats, None if caption_file_of(shelves, file) else folder.tokens)


def imagefolder_entry(file: File, shelves: FilesByKind, table: MetadataTable) -> LayoutEntry | str:
    """Captions from the metadata; pictures that it does not name fall back to their sidecar."""
    return LayoutEntry(1, table.captions.get(file.relative))


LAYOUTS: Mapping[LayoutName, Callable[[File, FilesByKind, MetadataTable], LayoutEntry | str]] = {
    "flat": flat_entry,
    "kohya": kohya_entry,
    "imagefolder": imagefolder_entry,
}


def describe(layout: LayoutName, shelves: FilesByKind) -> str:
    """Say what the layout is taken to mean, for the finding of a discovery."""
    if layout == "imagefolder":
        splits = sorted({file.folder.partition("/")[0] for file in shelves.pictures if file.folder})
        read = f"; sub-folders {', '.join(splits)} are read as one dataset" if splits else ""
        return f"Hugging Face imagefolder with metadata in {len(shelves.metadata)} folder(s){read}"
    if layout == "kohya":
        folders = {folder for file in shelves.pictures if (folder := kohya_folder(file))}
        listed = ", ".join(f"{folder.repeats} x '{folder.tokens}'" for folder in sorted(folders)[:5])
        return f"kohya folders: {listed}{' and more' if len(folders) > 5 else ''}"
    endings = sorted(kind for kind, found in shelves.sidecars.items() if found)
    return f"a flat folder with {' and '.join(endings) or 'no'} caption files, sub-folders included"
