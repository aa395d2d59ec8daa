"""What to tell the user about a dataset folder: one finding a kind, with names and a count, never one a file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path

from trainer_core.data.discovery.discovery_types import Exclusion, PictureFile
from trainer_core.data.discovery.file_kinds import DESCRIPTIONS, FilesByKind, is_ignored
from trainer_core.data.discovery.layouts import KOHYA_FOLDER, LayoutName, describe, kohya_folder
from trainer_core.data.discovery.metadata import MetadataTable, metadata_findings
from trainer_core.data.discovery.walk import Tree
from trainer_core.data.names import join_names
from trainer_core.types import Finding

MANY_REPEATS = 1000
"""A kohya folder with more is probably named after a year or a number."""


@dataclass(frozen=True)
class FolderScan:
    """Everything that looking at a folder gave."""

    name: str
    root: Path
    layout: LayoutName
    tree: Tree
    files: FilesByKind
    table: MetadataTable
    pictures: tuple[PictureFile, ...]
    excluded: tuple[Exclusion, ...]

    @property
    def field(self) -> str:
        """The field of findings about this dataset."""
        return f"datasets.{self.name}"


def folder_findings(looked: FolderScan) -> Iterator[Finding]:
    """Yield the findings about a folder."""
    yield from chain(
        _layout(looked), _collisions(looked), _captions(looked), _kohya(looked), _metadata(looked), _other_files(looked)
    )


def _layout(looked: FolderScan) -> Iterator[Finding]:
    total = len(looked.pictures) + len(looked.excluded)
    message = f"{looked.root} is read as {describe(looked.layout, looked.files)}: {total} pictures found."
    yield Finding("info", looked.field, message, "Set `layout` to read it otherwise.")
    if looked.layout == "flat" and KOHYA_FOLDER.fullmatch(looked.root.name):
        message = f"The folder's own name {looked.root.name} looks like kohya's N_concept; its number is not read here."
        yield Finding("info", looked.field, message, "Name its parent as the dataset, or set `repeats`.")
    if looked.layout == "kohya" and not any(kohya_folder(file) for file in looked.files.pictures):
        yield Finding("error", looked.field, "No sub-folder named N_concept holds pictures.", "Set `layout: auto`.")
    if looked.layout == "imagefolder" and not looked.files.metadata:
        message = "There is no metadata.jsonl, metadata.csv or metadata.parquet."
        yield Finding("error", looked.field, message, "Set `layout: auto`.")


def _collisions(looked: FolderScan) -> Iterator[Finding]:
    """Pictures of one stem that would share a caption file: one of them surely means another picture."""
    uses = Counter(picture.caption_file for picture in looked.pictures if picture.caption_file is not None)
    shared = {file for file, number in uses.items() if number > 1}
    sharing: dict[str, list[str]] = defaultdict(list)
    for picture in looked.pictures:
        if picture.caption_file in shared:
            sharing[str(picture.caption_file)].append(picture.id)
    groups = [" and ".join(sorted(ids)) for ids in sharing.values()]
    if groups:
        message = f"Pictures of the same name share one caption file, in {len(groups)} case(s): {join_names(groups)}."
        fix = "Rename one of each with its caption, or remove it."
        yield Finding("error", looked.field, message, fix)


def _captions(looked: FolderScan) -> Iterator[Finding]:
    owners = {file.stem for file in looked.files.pictures}
    sidecars = looked.files.sidecars
    orphans = [
        file.relative
        for found in sidecars.values()
        for key in found.keys() - owners
        if not is_ignored((file := found[key]).name)
    ]
    if orphans:
        message = f"{len(orphans)} caption file(s) have no picture of their name: {join_names(orphans)}."
        yield Finding("warning", looked.field, message, "Add or rename the picture, or remove the caption.")
    shared = {key for one, other in combinations(sidecars.values(), 2) for key in one.keys() & other.keys() & owners}
    double = [found[key].relative for key in shared for found in sidecars.values() if key in found]
    if double:
        names = join_names(double)
        message = f"Pictures with caption files of two kinds; the first of `caption.extensions` is used: {names}."
        yield Finding("warning", looked.field, message, "Keep one kind.")
    inline = [picture for picture in looked.pictures if picture.inline_caption]
    both = [picture.id for picture in inline if any(stem_of(picture, looked) in found for found in sidecars.values())]
    if both:
        message = f"{len(both)} picture(s) have a caption file too; the metadata is used: {join_names(both, 5)}."
        yield Finding("warning", looked.field, message, "Remove one of the two.")


def stem_of(picture: PictureFile, looked: FolderScan) -> str:
    """Return the key of a picture among the sidecars."""
    return picture.id[len(looked.name) + 1 :].rpartition(".")[0]


def _kohya(looked: FolderScan) -> Iterator[Finding]:
    if looked.layout != "kohya":
        return
    tokens = [picture.id for picture in looked.pictures if picture.inline_caption is not None]
    if tokens:
        message = f"{len(tokens)} picture(s) have no caption file: the class tokens are their caption (kohya's rule)."
        yield Finding("info", looked.field, message, "Add caption files to describe them one by one.")
    folders = {folder for file in looked.files.pictures if (folder := kohya_folder(file))}
    many = [f"{folder.repeats}_{folder.tokens}" for folder in folders if folder.repeats > MANY_REPEATS]
    if many:
        message = f"More than {MANY_REPEATS} repeats: {join_names(many)}. Is the number a year?"
        yield Finding("warning", looked.field, message, "Set `layout: flat`, or rename the folder.")


def _metadata(looked: FolderScan) -> Iterator[Finding]:
    present = {file.relative for file in looked.files.pictures} if looked.table.captions else set[str]()
    absent = [name for name in looked.table.captions if name not in present]
    yield from metadata_findings(looked.table, looked.field, absent)


def _other_files(looked: FolderScan) -> Iterator[Finding]:
    if looked.tree.repeated:
        message = f"Links that lead to a folder that is read already, or above it: {join_names(looked.tree.repeated)}."
        yield Finding("warning", looked.field, message, "Remove the links; each folder is read once.")
    if looked.tree.unreadable:
        message = f"Folders that cannot be listed: {join_names(looked.tree.unreadable)}."
        yield Finding("warning", looked.field, message, "Give yourself permission to read them, or remove them.")
    others = sorted(looked.files.others.items())
    if others:
        kinds = [
            f"{number} .{kind}" + (f" ({DESCRIPTIONS[kind]})" if kind in DESCRIPTIONS else "")
            for kind, number in others
        ]
        yield Finding("info", looked.field, f"Files that nothing reads: {join_names(kinds)}.", "")
