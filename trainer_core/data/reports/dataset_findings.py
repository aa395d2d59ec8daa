"""What to tell the user once every picture is judged: exclusions by cause, duplicates, crops, captions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain

from trainer_core.config.groups import CaptionConfig
from trainer_core.data.discovery.discovery_types import Exclusion
from trainer_core.data.draft import Draft
from trainer_core.data.epoch.regularisation import NOT_NEEDED
from trainer_core.data.names import join_names, pluralize
from trainer_core.data.pictures.buckets import enlargement, kept_share
from trainer_core.types import Finding

MUCH_CROPPED = 2 / 3
"""A crop that keeps less of a picture is worth a warning."""
MUCH_ENLARGED = 2.0
NO_CAPTION = "no caption"


def dataset_findings(
    drafts: Sequence[Draft], excluded: Sequence[Exclusion], held: frozenset[str], caption: CaptionConfig
) -> Iterator[Finding]:
    """Yield findings about all datasets together, one a kind."""
    once = list({draft.picture.id: draft for draft in reversed(drafts)}.values())[::-1]
    yield from chain(
        _excluded(excluded, caption),
        _captions(once, caption),
        _duplicates(once, held),
        _notes(once),
        _sizes(drafts),
    )


def _excluded(excluded: Sequence[Exclusion], caption: CaptionConfig) -> Iterator[Finding]:
    causes: dict[str, list[Exclusion]] = defaultdict(list)
    for exclusion in excluded:
        if exclusion.cause == NOT_NEEDED:
            continue
        causes[exclusion.cause].append(exclusion)
    for cause, exclusions in sorted(causes.items()):
        names = join_names(exclusion.path for exclusion in exclusions)
        if cause == NO_CAPTION and caption.missing == "error":
            message = f"{len(exclusions)} picture(s) have no caption: {names}."
            fix = "Write captions, or set it to `exclude` or `empty`."
            yield Finding("error", "caption.missing", message, fix)
            continue
        example = min(exclusions, key=lambda exclusion: exclusion.path).reason
        yield Finding("warning", "datasets", f"{len(exclusions)} picture(s) left out, {example}: {names}.", "")


def _captions(drafts: Sequence[Draft], caption: CaptionConfig) -> Iterator[Finding]:
    several = [draft.picture.id for draft in drafts if len(draft.lines) > 1]
    if several and caption.multiline == "first_line":
        names = join_names(several, 5)
        message = f"{len(several)} caption file(s) have several lines, of which only the first is used: {names}."
        yield Finding("info", "caption.multiline", message, "Set it to `whole`, `each` or `random` to use all lines.")
    empty = [draft.picture.id for draft in drafts if not draft.lines and not draft.caption]
    if empty:
        files = pluralize(len(empty), "picture")
        message = f"{files} without a caption: trained on an empty one: {join_names(empty)}."
        yield Finding("warning", "caption.missing", message, "Write captions, or set it to `exclude`.")
    framed = [draft.picture.id for draft in drafts if not draft.lines and draft.caption]
    if framed:
        files = pluralize(len(framed), "picture")
        message = (
            f"{files} without a caption: trained on the trigger word, prefix and suffix alone: {join_names(framed)}."
        )
        yield Finding("info", "caption.missing", message, "")


def _duplicates(drafts: Sequence[Draft], held: frozenset[str]) -> Iterator[Finding]:
    groups: dict[str, list[str]] = defaultdict(list)
    for draft in drafts:
        # One result of two control pictures is two pairs.
        pair = " ".join([draft.content, *(one.picture for one in draft.controls)]) if draft.controls else draft.content
        groups[pair].append(draft.picture.id)
    same = [" = ".join(sorted(ids)[:5]) + (" = ..." if len(ids) > 5 else "") for ids in groups.values() if len(ids) > 1]
    if same:
        message = f"{len(same)} group(s) of files are the same picture; all are used, on one side of the split: "
        yield Finding("warning", "datasets", f"{message}{join_names(same)}.", "Remove the copies, or use `repeats`.")


def _notes(drafts: Sequence[Draft]) -> Iterator[Finding]:
    noted: dict[str, list[str]] = defaultdict(list)
    for draft in drafts:
        for note in draft.notes:
            noted[note].append(draft.picture.id)
    for note, ids in sorted(noted.items()):
        yield Finding("info", "datasets", f"{len(ids)} picture(s): the file {note}: {join_names(ids, 5)}.", "")


def _sizes(drafts: Sequence[Draft]) -> Iterator[Finding]:
    cropped = [draft.sample_id for draft in drafts if kept_share(draft.geometry) < MUCH_CROPPED]
    if cropped:
        message = f"{len(cropped)} picture(s) lose more than a third to the crop: {join_names(cropped)}."
        yield Finding("warning", "bucket", message, "Crop them yourself, or widen bucket.min_side and bucket.max_side.")
    enlarged = [draft.sample_id for draft in drafts if enlargement(draft.geometry) > MUCH_ENLARGED]
    if enlarged:
        message = f"{len(enlarged)} picture(s) are enlarged more than {MUCH_ENLARGED:g} times: {join_names(enlarged)}."
        yield Finding("warning", "bucket.upscale", message, "Use larger pictures, or set bucket.upscale to false.")
