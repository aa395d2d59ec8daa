"""Control pictures of edit datasets: which file belongs to which picture, and in which order. Opens no picture.

A control picture has the name of its picture, sub-folders included, whatever its ending. Several control pictures of
one sample lie in several folders, one a place, or in one folder as NAME_0, NAME_1 ... (or from _1 on).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

from trainer_core.data.discovery.discovery_types import ControlFile, Exclusion, PictureFile
from trainer_core.data.discovery.file_kinds import PICTURES, reason_unreadable
from trainer_core.data.discovery.walk import File, walk
from trainer_core.data.names import join_names, printable, stem_of
from trainer_core.data.pictures.buckets import cover_bucket
from trainer_core.errors import DatasetError
from trainer_core.types import Bucket, Control, Finding, Geometry

_NUMBERED = re.compile(r"(.+)_([0-9]{1,4})")


@dataclass(frozen=True)
class ControlRules:
    """What a family does with control pictures, and the size that is asked for."""

    max_controls: int
    """How many a sample may have."""
    required: bool
    """Whether a sample without one is an error."""
    fit: Callable[[int, int, int], tuple[int, int]]
    """(width, height, side) -> (width, height) that is encoded, in pixels."""
    side: int = 0
    """Side of the square whose area is aimed at; 0 for the family's own."""


class ControlFolder(NamedTuple):
    """A control folder with its pictures."""

    name: str
    files: Sequence[File]


@dataclass
class Pairing:
    """Control files by the stem of their picture, in order, and all that is wrong, by kind."""

    controls: dict[str, tuple[File, ...]] = field(default_factory=dict[str, tuple[File, ...]])
    orphans: list[str] = field(default_factory=list[str])
    duplicates: list[str] = field(default_factory=list[str])
    gaps: list[str] = field(default_factory=list[str])
    shared: list[str] = field(default_factory=list[str])
    too_many: list[str] = field(default_factory=list[str])
    without: list[str] = field(default_factory=list[str])
    too_few: list[str] = field(default_factory=list[str])


def path_inside(root: str, folder: str) -> str | None:
    """Return where `folder` lies below `root` ("sub/folder/"), by the names given or by what they lead to, if it does.

    Both are absolute. None where it lies elsewhere, or is the root itself.
    """
    for above, below in ((root, folder), (os.path.realpath(root), os.path.realpath(folder))):
        if below.startswith(above.rstrip("/") + "/"):
            return below[len(above.rstrip("/")) + 1 :] + "/"
    return None


def exclude_folders(files: list[File], root: str, others: Iterable[str]) -> list[File]:
    """Return the files of a walk of `root` without those below other folders that have a meaning of their own."""
    prefixes = tuple(found for other in others if (found := path_inside(root, other)) is not None)
    return [file for file in files if not file.folder.startswith(prefixes)] if prefixes else files


def list_control_folders(folders: Sequence[str], dataset: str) -> list[ControlFolder]:
    """List the pictures of control folders (absolute paths) of the dataset folder `dataset`.

    Raises:
        DatasetError: a folder is missing, is no folder or cannot be listed.
    """
    found: list[ControlFolder] = []
    for folder in folders:
        shown = printable(folder)
        if not os.path.isdir(folder):
            raise DatasetError(f"{shown}: there is no such folder of control pictures. Correct control_path.")
        tree = walk(folder)
        if "" in tree.unreadable:
            raise DatasetError(f"{shown}: the control folder cannot be listed. Give yourself permission to read it.")
        files = exclude_folders(tree.files, folder, [one for one in (dataset, *folders) if one != folder])
        found.append(ControlFolder(shown, [file for file in files if file.ending in PICTURES]))
    return found


def pair_controls(
    folders: Sequence[ControlFolder], owners: Collection[str], wanted: Sequence[str], rules: ControlRules
) -> Pairing:
    """Find the control files of each picture.

    Args:
        folders: the control folders, a place each.
        owners: stems of all pictures of the dataset, those that are left out too.
        wanted: relative names of the pictures that are to be trained.
        rules: what the family takes.
    """
    pairing = Pairing()
    in_folders: dict[str, list[tuple[int, File]]] = {}
    numbered: dict[str, list[tuple[int, File]]] = {}
    several = len(folders) == 1 and rules.max_controls > 1
    for position, folder in enumerate(folders):
        for file in folder.files:
            # A picture may itself be called NAME_0: its own control comes first.
            if file.stem in owners:
                in_folders.setdefault(file.stem, []).append((position, file))
            elif several and (match := _NUMBERED.fullmatch(file.stem)) and match[1] in owners:
                numbered.setdefault(match[1], []).append((int(match[2]), file))
            else:
                pairing.orphans.append(file.path)
    for stem in in_folders | numbered:
        _join(pairing, stem, in_folders.get(stem, []), numbered.get(stem, []))
    _judge(pairing, wanted, len(folders), rules)
    return pairing


def attach_controls(
    pictures: Iterable[PictureFile], pairing: Pairing, prefix: int
) -> tuple[list[PictureFile], list[Exclusion]]:
    """Give each picture its control files; one whose control file cannot be read is excluded.

    Args:
        pictures: without controls.
        pairing: of their dataset.
        prefix: characters of a sample id before the path in its folder.
    """
    kept: list[PictureFile] = []
    excluded: list[Exclusion] = []
    for picture in pictures:
        files = pairing.controls.get(stem_of(picture.id[prefix:]), ())
        if problems := [reason for file in files if (reason := _unusable(file)) is not None]:
            excluded.append(Exclusion(printable(picture.id), problems[0]))
        else:
            found = tuple([ControlFile(file.path, file.stat) for file in files if file.stat is not None])
            # Not _replace, which takes three times as long.
            kept.append(PictureFile(*picture[:-1], found) if found else picture)
    return kept, excluded


def pairing_findings(pairing: Pairing, field_name: str, rules: ControlRules) -> Iterator[Finding]:
    """Say what is wrong with the pairs of a dataset: one finding a kind, every file named up to a limit."""
    kinds = (
        (pairing.duplicates, "error", "control picture(s) are there twice", "Keep one of each."),
        (pairing.shared, "error", "pictures of the same name would share a control picture", "Rename one of each."),
        (
            pairing.gaps,
            "error",
            "picture(s) lack a control picture before the last, so that the others would move up",
            "Add the missing ones, or number them without gaps.",
        ),
        (
            pairing.too_many,
            "error",
            f"picture(s) have more control pictures than the {rules.max_controls} that the model takes",
            "Remove the others.",
        ),
        (
            pairing.without,
            "error" if rules.required else "warning",
            "picture(s) have no control picture" + ("" if rules.required else " and are trained without one"),
            "Add control pictures of the same names, or remove the pictures.",
        ),
        (pairing.too_few, "warning", "picture(s) have fewer control pictures than there are folders", ""),
        (
            pairing.orphans,
            "warning",
            "control picture(s) have no picture of their name",
            "Add or rename the picture, or remove them.",
        ),
    )
    for names, level, message, fix in kinds:
        if names:
            yield Finding(level, field_name, f"{len(names)} {message}: {join_names(names)}.", fix)  # type: ignore[arg-type]


def control_geometry(control: Control, crop: bool) -> Geometry:
    """Return how a control picture becomes its encoded size: squeezed, or with `crop` scaled to cover it and cut."""
    (height, width), (high, wide) = control.original, control.encoded
    if crop:
        return cover_bucket(width, height, Bucket(wide, high))
    return Geometry((height, width), (high, wide), (0, 0), (high, wide))


def control_name(control: Control) -> str:
    """Return what to call a control picture: its folder and name."""
    return printable(f"{control.path.parent.name}/{control.path.name}")


def _join(
    pairing: Pairing, stem: str, in_folders: Sequence[tuple[int, File]], numbers: Sequence[tuple[int, File]]
) -> None:
    """Put the files of one picture in order, and note doubles and gaps."""
    if len(in_folders) == 1 and not in_folders[0][0] and not numbers:
        pairing.controls[stem] = (in_folders[0][1],)
        return
    used = sorted(in_folders or numbers, key=itemgetter(0))
    order = [number for number, _ in used]
    if len(set(order)) < len(order) or (in_folders and numbers):
        pairing.duplicates.append(" = ".join(printable(file.path) for _, file in (*in_folders, *numbers)))
    first = 0 if in_folders else min(order[0], 1)
    if sorted(set(order)) != list(range(first, first + len(set(order)))):
        pairing.gaps.append(stem)
    pairing.controls[stem] = tuple(file for _, file in used)


def _judge(pairing: Pairing, wanted: Sequence[str], folders: int, rules: ControlRules) -> None:
    gaps, uses = set(pairing.gaps), Counter(map(stem_of, wanted))
    for name in wanted:
        stem = stem_of(name)
        count = len(pairing.controls.get(stem, ()))
        if not count:
            pairing.without.append(name)
        elif uses[stem] > 1:
            pairing.shared.append(name)
        if count > rules.max_controls:
            pairing.too_many.append(name)
        if 0 < count < folders and stem not in gaps:
            pairing.too_few.append(name)


def _unusable(file: File) -> str | None:
    problem = reason_unreadable(file)
    if problem is None:
        return None
    cause, _, detail = problem.partition(": ")
    return f"control picture {cause}: {printable(file.relative)}: {detail}"
