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


def folder_findings(scan: FolderScan) -> Iterator[Finding]:
    """Yield the findings about a folder."""
    yield from chain(
        _layout(scan), _collisions(scan), _captions(scan), _kohya(scan), _metadata(scan), _other_files(scan)
    )


def _layout(scan: FolderScan) -> Iterator[Finding]:
    total = len(scan.pictures) + len(scan.excluded)
    message = f"{scan.root} is read as {describe(scan.layout, scan.files)}: {total} pictures found."
    yield Finding("info", scan.field, message, "Set `layout` to read it otherwise.")
    if scan.layout == "flat" and KOHYA_FOLDER.fullmatch(scan.root.name):
        message = f"The folder's own name {scan.root.name} looks like kohya's N_concept; its number is not read here."
        yield Finding("info", scan.field, message, "Name its parent as the dataset, or set `repeats`.")
    if scan.layout == "kohya" and not any(kohya_folder(file) for file in scan.files.pictures):
        yield Finding("error", scan.field, "No sub-folder named N_concept holds pictures.", "Set `layout: auto`.")
    if scan.layout == "imagefolder" and not scan.files.metadata:
        message = "There is no metadata.jsonl, metadata.csv or metadata.parquet."
        yield Finding("error", scan.field, message, "Set `layout: auto`.")


def _collisions(scan: FolderScan) -> Iterator[Finding]:
    """Pictures of one stem that would share a caption file: one of them surely means another picture."""
    uses = Counter(picture.caption_file for picture in scan.pictures if picture.caption_file is not None)
    shared = {file for file, number in uses.items() if number > 1}
    sharing: dict[str, list[str]] = defaultdict(list)
    for picture in scan.pictures:
        if picture.caption_file in shared:
            sharing[str(picture.caption_file)].append(picture.id)
    groups = [" and ".join(sorted(ids)) for ids in sharing.values()]
    if groups:
        message = f"Pictures of the same name share one caption file, in {len(groups)} case(s): {join_names(groups)}."
        fix = "Rename one of each with its caption, or remove it."
        yield Finding("error", scan.field, message, fix)


def _captions(scan: FolderScan) -> Iterator[Finding]:
    owners = {file.stem for file in scan.files.pictures}
    sidecars = scan.files.sidecars
    orphans = [
        file.relative
        for found in sidecars.values()
        for key in found.keys() - owners
        if not is_ignored((file := found[key]).name)
    ]
    if orphans:
        message = f"{len(orphans)} caption file(s) have no picture of their name: {join_names(orphans)}."
        yield Finding("warning", scan.field, message, "Add or rename the picture, or remove the caption.")
    shared = {key for one, other in combinations(sidecars.values(), 2) for key in one.keys() & other.keys() & owners}
    double = [found[key].relative for key in shared for found in sidecars.values() if key in found]
    if double:
        names = join_names(double)
        message = f"Pictures with caption files of two kinds; the first of `caption.extensions` is used: {names}."
        yield Finding("warning", scan.field, message, "Keep one kind.")
    inline = [picture for picture in scan.pictures if picture.inline_caption]
    both = [picture.id for picture in inline if any(stem_of(picture, scan) in found for found in sidecars.values())]
    if both:
        message = f"{len(both)} picture(s) have a caption file too; the metadata is used: {join_names(both, 5)}."
        yield Finding("warning", scan.field, message, "Remove one of the two.")


def stem_of(picture: PictureFile, scan: FolderScan) -> str:
    """Return the key of a picture among the sidecars."""
    return picture.id[len(scan.name) + 1 :].rpartition(".")[0]


def _kohya(scan: FolderScan) -> Iterator[Finding]:
    if scan.layout != "kohya":
        return
    tokens = [picture.id for picture in scan.pictures if picture.inline_caption is not None]
    if tokens:
        message = f"{len(tokens)} picture(s) have no caption file: the class tokens are their caption (kohya's rule)."
        yield Finding("info", scan.field, message, "Add caption files to describe them one by one.")
    folders = {folder for file in scan.files.pictures if (folder := kohya_folder(file))}
    many = [f"{folder.repeats}_{folder.tokens}" for folder in folders if folder.repeats > MANY_REPEATS]
    if many:
        message = f"More than {MANY_REPEATS} repeats: {join_names(many)}. Is the number a year?"
        yield Finding("warning", scan.field, message, "Set `layout: flat`, or rename the folder.")


def _metadata(scan: FolderScan) -> Iterator[Finding]:
    present = {file.relative for file in scan.files.pictures} if scan.table.captions else set[str]()
    absent = [name for name in scan.table.captions if name not in present]
    yield from metadata_findings(scan.table, scan.field, absent)


def _other_files(scan: FolderScan) -> Iterator[Finding]:
    if scan.tree.repeated:
        message = f"Links that lead to a folder that is read already, or above it: {join_names(scan.tree.repeated)}."
        yield Finding("warning", scan.field, message, "Remove the links; each folder is read once.")
    if scan.tree.unreadable:
        message = f"Folders that cannot be listed: {join_names(scan.tree.unreadable)}."
        yield Finding("warning", scan.field, message, "Give yourself permission to read them, or remove them.")
    others = sorted(scan.files.others.items())
    if others:
        kinds = [
            f"{number} .{kind}" + (f" ({DESCRIPTIONS[kind]})" if kind in DESCRIPTIONS else "")
            for kind, number in others
        ]
        yield Finding("info", scan.field, f"Files that nothing reads: {join_names(kinds)}.", "")
