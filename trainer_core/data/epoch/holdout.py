"""Which pictures are held out of training: by content, so that a picture is never on both sides."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

SMALL = 4
"""From this many pictures on, a share above 0 holds out at least one."""


class HoldoutShare(NamedTuple):
    """A dataset as the split sees it: the share to hold out, and the content hash of every picture, copies too."""

    share: float
    pictures: Sequence[str]


def held_out_pictures(parts: Mapping[str, HoldoutShare]) -> frozenset[str]:
    """Choose the content hashes that are held out, in every dataset they are in.

    A share of 1 holds out the whole dataset, whatever other datasets ask for its contents. Else each dataset aims at
    share x pictures, rounded half up. Its distinct contents are ranked by the SHA-256 of dataset
    name and content, so that the choice hardly moves when pictures come and go, and are taken while they fit. Contents
    that lie in a dataset of share 0 as well stay in training. The result does not depend on the order of datasets or
    pictures. For groups that must not be split, give the same name to all contents of one: see `united`.
    """
    held = {content for part in parts.values() if part.share == 1 for content in part.pictures}
    kept = {content for part in parts.values() if part.share == 0 for content in part.pictures} - held
    for name in sorted(parts):
        part = parts[name]
        groups = Counter(part.pictures)
        free = [content for content in groups if content not in kept and content not in held]
        held.update(
            _choose(sorted(free, key=lambda content: _rank(name, content)), groups, _wanted(part, groups, held))
        )
    return frozenset(held)


def group_of_picture(rule: str, sample_id: str) -> str | None:
    """Return the name of the group that a picture belongs to by `held_out_group`; None if it is alone.

    Args:
        rule: `folder` for the sub-folder that it lies in, or a regex: its first group that matched, else all of it.
        sample_id: dataset name and path in its folder.
    """
    if rule == "folder":
        return sample_id.rpartition("/")[0].partition("/")[2] or None
    match = re.search(rule, sample_id)
    if match is None:
        return None
    return next((part for part in match.groups() if part is not None), match[0])


def merge_groups(members: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Join contents that share a group, through several groups where need be: content -> name of all of them.

    Args:
        members: (group, content) of every picture that is in a group. The name is that of the first group by
            alphabet, so that more pictures in a group do not give it another place in the ranking.
    """
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    contents: set[str] = set()
    for group, content in members:
        contents.add(content)
        first, second = root(f"group {group}"), root(f"picture {content}")
        # The smaller name leads, and every name of a group comes before every picture's.
        parent[max(first, second)] = min(first, second)
    return {content: root(f"picture {content}") for content in contents}


def _wanted(part: HoldoutShare, groups: Counter[str], held: set[str]) -> int:
    total = len(part.pictures)
    if part.share == 1:
        return 0
    target = int(part.share * total + 0.5)
    if part.share > 0 and total >= SMALL:
        target = max(target, 1)
    return min(target, total - 1) - sum(groups[content] for content in held if content in groups)


def _choose(ranked: list[str], groups: Counter[str], wanted: int) -> list[str]:
    if wanted <= 0 or not ranked:
        return []
    chosen: list[str] = []
    for content in ranked:
        if groups[content] <= wanted:
            chosen.append(content)
            wanted -= groups[content]
    if chosen:
        return chosen
    # Only larger groups of duplicates are left: the smallest, unless it is most of the dataset.
    smallest = min(ranked, key=lambda content: groups[content])
    return [smallest] if 2 * groups[smallest] <= groups.total() else []


def _rank(name: str, content: str) -> str:
    return hashlib.sha256(f"{name}\0{content}".encode()).hexdigest()
