"""Masks: which file belongs to which picture, whether it fits, and where its weight lies. Opens no picture.

A mask has the name of its picture, sub-folders included, whatever its ending, or that name with `-masklabel` after it
(OneTrainer's). Where the mask folder is the dataset's own, only the latter are masks.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from trainer_core.data.discovery.controls import exclude_folders
from trainer_core.data.discovery.discovery_types import Exclusion, MaskFile, PictureFile
from trainer_core.data.discovery.file_kinds import PICTURES, reason_unreadable
from trainer_core.data.discovery.walk import File, walk
from trainer_core.data.names import join_names, printable, stem_of
from trainer_core.data.pictures.picture_info import TRANSPARENT, PictureInfo
from trainer_core.errors import DatasetError
from trainer_core.types import Finding, Mask

LABEL = "-masklabel"


@dataclass
class Masks:
    """Mask files by the stem of their picture, and what is wrong, by kind."""

    files: dict[str, File] = field(default_factory=dict[str, File])
    orphans: list[str] = field(default_factory=list[str])
    duplicates: list[str] = field(default_factory=list[str])
    shared: list[str] = field(default_factory=list[str])
    without: int = 0


def find_masks(folder: str, dataset: str, owners: Collection[str]) -> Masks:
    """List the masks of a dataset's pictures.

    Args:
        folder: of the masks, absolute.
        dataset: of the pictures, absolute.
        owners: stems of all its pictures.

    Raises:
        DatasetError: the folder is missing or cannot be listed.
    """
    shown = printable(folder)
    if not os.path.isdir(folder):
        raise DatasetError(f"{shown}: there is no such folder of masks. Correct mask_path.")
    tree = walk(folder)
    if "" in tree.unreadable:
        raise DatasetError(f"{shown}: the folder of masks cannot be listed. Give yourself permission to read it.")
    own = os.path.realpath(folder) == os.path.realpath(dataset)
    masks = Masks()
    for file in exclude_folders(tree.files, folder, () if own else (dataset,)):
        if file.ending not in PICTURES:
            continue
        labelled = file.stem.lower().endswith(LABEL)
        stem = file.stem[: -len(LABEL)] if labelled else file.stem
        if own and not labelled:
            continue
        if stem not in owners:
            masks.orphans.append(file.path)
        elif stem in masks.files:
            masks.duplicates.append(f"{printable(masks.files[stem].path)} = {printable(file.path)}")
        else:
            masks.files[stem] = file
    return masks


def attach_masks(
    pictures: Iterable[PictureFile], masks: Masks, prefix: int
) -> tuple[list[PictureFile], list[Exclusion]]:
    """Give each picture its mask; one whose mask cannot be read is excluded.

    Args:
        pictures: without masks.
        masks: of their dataset; what is wrong with their names is noted there.
        prefix: characters of a sample id before the path in its folder.
    """
    kept: list[PictureFile] = []
    excluded: list[Exclusion] = []
    pictures = list(pictures)
    uses = Counter(stem_of(picture.id[prefix:]) for picture in pictures)
    for picture in pictures:
        stem = stem_of(picture.id[prefix:])
        file = masks.files.get(stem)
        if file is None:
            masks.without += 1
            kept.append(picture)
            continue
        if uses[stem] > 1:
            masks.shared.append(picture.id[prefix:])
        if (problem := reason_unreadable(file)) is not None:
            cause, _, detail = problem.partition(": ")
            excluded.append(Exclusion(printable(picture.id), f"mask {cause}: {printable(file.relative)}: {detail}"))
        elif file.stat is not None:
            kept.append(picture._replace(mask=MaskFile(file.path, file.stat)))
    return kept, excluded


def mask_findings(masks: Masks, name: str, pictures: int) -> Iterator[Finding]:
    """Say how many of `pictures` have masks, and what is wrong with the names; `name` is the field."""
    fix = "Keep one of each."
    if masks.duplicates:
        yield Finding(
            "error", name, f"{len(masks.duplicates)} mask(s) are there twice: {join_names(masks.duplicates)}.", fix
        )
    if masks.shared:
        message = f"{len(masks.shared)} pictures of the same name would share a mask: {join_names(masks.shared)}."
        yield Finding("error", name, message, "Rename one of each.")
    if masks.orphans:
        message = f"{len(masks.orphans)} mask(s) have no picture of their name: {join_names(masks.orphans)}."
        yield Finding("warning", name, message, "Add or rename the picture, or remove them.")
    message = f"{pictures - masks.without} of {pictures} pictures have a mask."
    if masks.without:
        yield Finding("info", name, message, "The others are trained whole.")
    else:
        yield Finding("info", name, message, "")


def resolve_mask(
    found: MaskFile | None, own: PictureInfo, hashes: Mapping[str, str], infos: Mapping[str, PictureInfo]
) -> Mask | None | str:
    """Return the mask of a picture, or the reason why it cannot be used; an alpha channel must hide something.

    Args:
        found: its file, or the picture's own.
        own: what is known of the picture.
        hashes: SHA-256 by path.
        infos: what is known of mask files, by SHA-256.
    """
    if found is None or (found.alpha and TRANSPARENT not in own.notes):
        return None
    name, content = printable(found.path.name), hashes.get(found.file)
    if content is None:
        return f"mask unreadable: {name}: the file could not be read; check its permissions"
    info = infos[content]
    if info.problem is not None:
        cause, _, detail = info.problem.partition(": ")
        return f"mask {cause}: {name}: {detail}"
    # A mask that was scaled down may be off by a pixel for rounding.
    if abs(info.width * own.height - info.height * own.width) > max(own.width, own.height):
        size = f"{info.width}x{info.height}"
        return f"mask of another shape: {name} is {size}, its picture {own.width}x{own.height}"
    return Mask(found.path, content, found.alpha)


def mask_folders(mask_path: os.PathLike[str] | None, dataset: str) -> list[str]:
    """Return the mask folder of a dataset as a list, empty where there is none or it is the dataset's own."""
    if mask_path is None:
        return []
    folder = os.path.abspath(mask_path)
    return [] if os.path.realpath(folder) == os.path.realpath(dataset) else [folder]
