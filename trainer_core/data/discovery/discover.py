"""Look at a dataset folder: which pictures it has, where their captions are, what was left out. Opens no picture.

Pictures are files that end in png, jpg, jpeg, webp, bmp, gif, tif, tiff or avif, in the folder and its sub-folders;
endings of other picture formats (jxl, heic, psd, raw files...) count as found and are excluded by name. Ignored without
a word: names that begin with a dot, README, LICENSE, metadata.*, Thumbs.db and the like. Other files are counted in a
finding.

Layouts, in the order in which `layout: auto` tries them:
    imagefolder   metadata.jsonl, .csv or .parquet in any folder: columns file_name and text, prompt or caption.
    kohya         children named N_concept: N repeats; `concept` is the caption of pictures without a caption file.
    flat          caption files beside the pictures.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer_core.config.groups import CaptionConfig, DatasetConfig
from trainer_core.data.discovery.controls import (
    ControlRules,
    attach_controls,
    exclude_folders,
    list_control_folders,
    pair_controls,
    pairing_findings,
)
from trainer_core.data.discovery.discovery_types import Discovery, Exclusion, MaskFile, PictureFile
from trainer_core.data.discovery.file_kinds import (
    FilesByKind,
    caption_file_of,
    reason_to_ignore,
    reason_unreadable,
    sort_files,
)
from trainer_core.data.discovery.folder_findings import FolderScan, folder_findings
from trainer_core.data.discovery.layouts import LAYOUTS, LayoutName, detect_layout
from trainer_core.data.discovery.masks import LABEL, Masks, attach_masks, find_masks, mask_findings, mask_folders
from trainer_core.data.discovery.metadata import MetadataTable, read_metadata
from trainer_core.data.discovery.walk import File, Tree, walk
from trainer_core.data.names import join_names, printable
from trainer_core.errors import DatasetError
from trainer_core.types import Finding

__all__ = ["Discovery", "Exclusion", "PictureFile", "dataset_name", "discover", "folder_fingerprint", "newest_change"]


def discover(dataset: DatasetConfig, caption: CaptionConfig, controls: ControlRules | None = None) -> Discovery:
    """List the pictures of a dataset folder with what belongs to them.

    Args:
        dataset: The folder; a relative path is relative to the working directory.
        caption: Its `extensions` say which files are captions.
        controls: What the family does with control pictures; None where it takes none.

    Raises:
        DatasetError: the folder is missing, is no folder or cannot be listed.
    """
    root = _folder(dataset)
    name = dataset_name(dataset)
    tree = walk(root)
    if "" in tree.unreadable:
        raise DatasetError(f"{root}: the dataset folder cannot be listed. Give yourself permission to read it.")
    control_roots, mask_roots = _control_roots(dataset), mask_folders(dataset.mask_path, root)
    shelves = sort_files(exclude_folders(tree.files, root, (*control_roots, *mask_roots)), caption.extensions)
    masks = _masks(dataset, root, shelves)
    layout: LayoutName = detect_layout(shelves) if dataset.layout == "auto" else dataset.layout
    table = read_metadata(shelves.metadata) if layout == "imagefolder" else MetadataTable()
    pictures, excluded = _sort_pictures(shelves, layout, table, _Frame(name, dataset.repeats))
    found: list[Finding] = []
    if dataset.class_tokens is not None:
        pictures, given = _with_class_tokens(pictures, dataset.class_tokens, layout)
        found += _class_token_findings(given, dataset.class_tokens, f"datasets.{name}.class_tokens")
    if control_roots and controls is not None:
        prefix = len(name) + 1
        owners = {file.stem for file in shelves.pictures}
        pairing = pair_controls(
            list_control_folders(control_roots, root), owners, [one.id[prefix:] for one in pictures], controls
        )
        pictures, unreadable = attach_controls(pictures, pairing, prefix)
        excluded += unreadable
        found += pairing_findings(pairing, f"datasets.{name}.control_path", controls)
    if masks is not None:
        pictures, unreadable = attach_masks(pictures, masks, len(name) + 1)
        excluded += unreadable
        found += mask_findings(masks, f"datasets.{name}.mask_path", len(pictures))
    if dataset.alpha_mask:
        pictures = [one if one.mask else one._replace(mask=MaskFile(one.file, one.stat, True)) for one in pictures]
    scan = FolderScan(name, Path(root), layout, tree, shelves, table, tuple(pictures), tuple(excluded))
    findings = (*folder_findings(scan), *found)
    return Discovery(name, Path(root), layout, dataset, scan.pictures, scan.excluded, findings)


def dataset_name(dataset: DatasetConfig) -> str:
    """Return the first part of the dataset's sample ids: its `name`, else that of the folder it is in the end."""
    return dataset.name or printable(Path(os.path.abspath(dataset.path)).name) or "dataset"


def folder_fingerprint(datasets: Sequence[DatasetConfig]) -> str:
    """Return a SHA-256 hex digest that changes whenever any file below the folders does, from names and stat alone.

    A missing folder has a digest of its own, so that a sensor sees it come and go.
    """
    digest = hashlib.sha256()
    for tree, name, root in _trees(datasets):
        digest.update(repr((name, os.path.isdir(root))).encode())
        for file in tree.files:
            digest.update(repr((file.relative, file.problem, file.stat)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def newest_change(datasets: Sequence[DatasetConfig]) -> float:
    """Return when anything below the folders last changed, in seconds since 1970; 0.0 if there is nothing.

    By ctime, which copying with preserved times does not turn back; a deletion shows in the folder's.
    """
    return max((tree.newest for tree, *_ in _trees(datasets)), default=0) / 1e9


@dataclass(frozen=True)
class _Frame:
    """What is the same for all pictures of a dataset."""

    name: str
    repeats: int


def _trees(datasets: Sequence[DatasetConfig]) -> Iterator[tuple[Tree, str, str]]:
    """Yield the files of each dataset folder, of its control folders and masks, with its name and the folder."""
    for dataset in datasets:
        own = os.path.abspath(dataset.path)
        for root in (own, *_control_roots(dataset), *mask_folders(dataset.mask_path, own)):
            yield (walk(root) if os.path.isdir(root) else Tree()), dataset_name(dataset), root


def _control_roots(dataset: DatasetConfig) -> list[str]:
    return [os.path.abspath(path) for path in dataset.control_path]


def _masks(dataset: DatasetConfig, root: str, shelves: FilesByKind) -> Masks | None:
    """Find the masks of a dataset; those beside the pictures are taken off the shelf of pictures."""
    if dataset.mask_path is None:
        return None
    stems = {file.stem for file in shelves.pictures if not file.stem.lower().endswith(LABEL)}
    masks = find_masks(os.path.abspath(dataset.mask_path), root, stems)
    used = {file.path for file in masks.files.values()}
    shelves.pictures = [file for file in shelves.pictures if file.path not in used]
    return masks


def _folder(dataset: DatasetConfig) -> str:
    root = os.path.abspath(dataset.path)
    shown = printable(root)
    if not os.path.exists(root):
        raise DatasetError(f"{shown}: the dataset folder does not exist. Correct the dataset's path.")
    if not os.path.isdir(root):
        raise DatasetError(f"{shown}: not a folder. A dataset's path names the folder that holds the pictures.")
    try:
        root.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(f"{shown}: the folder's name is not UTF-8. Rename the folder.") from error
    return root


def _sort_pictures(
    shelves: FilesByKind, layout: LayoutName, table: MetadataTable, frame: _Frame
) -> tuple[list[PictureFile], list[Exclusion]]:
    pictures: list[PictureFile] = []
    excluded: list[Exclusion] = []
    assign = LAYOUTS[layout]
    for file in shelves.pictures:
        identity = f"{frame.name}/{file.relative}"
        verdict = reason_unreadable(file) or reason_to_ignore(file) or assign(file, shelves, table)
        if not isinstance(verdict, str):
            caption = None if verdict.inline_caption is not None else caption_file_of(shelves, file)
            verdict = _picture(file, identity, frame.repeats * verdict.repeats, verdict.inline_caption, caption)
        if isinstance(verdict, str):
            excluded.append(Exclusion(printable(identity), verdict))
        else:
            pictures.append(verdict)
    return pictures, excluded


def _picture(file: File, identity: str, repeats: int, inline: str | None, caption: File | None) -> PictureFile | str:
    assert file.stat is not None
    if caption is None:
        return PictureFile(identity, file.path, file.stat, repeats, inline_caption=inline)
    if caption.problem:
        return f"caption {caption.problem}"
    return PictureFile(identity, file.path, file.stat, repeats, caption.path, caption.stat)


def _with_class_tokens(
    pictures: Sequence[PictureFile], tokens: str, layout: LayoutName
) -> tuple[list[PictureFile], list[str]]:
    """Give the settings' class tokens to pictures without a caption file; return all, and the ids of those.

    They go before the tokens in the name of a kohya folder; captions in metadata go before them.
    """
    given = {
        picture.id
        for picture in pictures
        if picture.caption_file is None and (picture.inline_caption is None or layout == "kohya")
    }
    replaced = [one._replace(inline_caption=tokens) if one.id in given else one for one in pictures]
    return replaced, sorted(given)


def _class_token_findings(given: Sequence[str], tokens: str, field: str) -> Iterator[Finding]:
    if given:
        message = f"{len(given)} picture(s) have no caption file: {tokens!r} is their caption: {join_names(given, 5)}."
        yield Finding("info", field, message, "Add caption files to describe them one by one.")
