"""The same picture at several resolutions: a sample for each, in buckets of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from trainer_core.config.groups import BucketConfig
from trainer_core.data.discovery.discovery_types import Discovery, Exclusion
from trainer_core.data.pictures.buckets import SDXL_RESOLUTION, BucketGrid, make_grid, sdxl_resolution_finding
from trainer_core.data.reports.dataset_findings import Draft
from trainer_core.types import Finding

_AT = re.compile(r"@[0-9]+$")


class ResolutionGrid(NamedTuple):
    """The buckets of one resolution, and what is added to the ids of samples that are trained at it."""

    suffix: str
    grid: BucketGrid


def bucket_grids(
    discoveries: Sequence[Discovery], bucket: BucketConfig, multiple: int
) -> Mapping[str, Sequence[ResolutionGrid]]:
    """Return the resolutions of each dataset by its name; where there is one, ids stay as they are.

    Raises:
        ConfigError: the bucket settings leave no bucket for a resolution.
    """
    grids: dict[int, BucketGrid] = {}
    found: dict[str, list[ResolutionGrid]] = {}
    for discovery in discoveries:
        resolutions = tuple(dict.fromkeys(discovery.resolutions)) or (bucket.resolution,)
        for resolution in resolutions:
            if resolution not in grids:
                grids[resolution] = make_grid(bucket.model_copy(update={"resolution": resolution}), multiple)
        several = len(resolutions) > 1
        found[discovery.name] = [ResolutionGrid(f"@{one}" if several else "", grids[one]) for one in resolutions]
    return found


def name_by_resolution(
    picture: str, judged: Sequence[tuple[ResolutionGrid, Draft | str]]
) -> tuple[list[Draft], list[Exclusion]]:
    """Name the samples of a picture, and where it is left out; what is wrong at every resolution is told once."""
    if len(judged) == 1:
        verdict = judged[0][1]
        return ([], [Exclusion(picture, verdict)]) if isinstance(verdict, str) else ([verdict], [])
    reasons = [verdict for _, verdict in judged if isinstance(verdict, str)]
    if len(reasons) == len(judged) and len(set(reasons)) == 1:
        return [], [Exclusion(picture, reasons[0])]
    drafts = [verdict._replace(id=picture + place.suffix) for place, verdict in judged if isinstance(verdict, Draft)]
    excluded = [Exclusion(picture + place.suffix, verdict) for place, verdict in judged if isinstance(verdict, str)]
    return drafts, excluded


def picture_id(sample_id: str) -> str:
    """Return the id of a sample's picture: without the resolution, which stands after the ending of its file."""
    return _AT.sub("", sample_id)


def resolution_findings(field: str, resolutions: Sequence[int], bucket: BucketConfig) -> Iterator[Finding]:
    """Say which resolutions of a dataset have no buckets."""
    for resolution in resolutions:
        if bucket.table == "sdxl_sizes":
            if resolution != SDXL_RESOLUTION:
                yield sdxl_resolution_finding(field, resolution)
        elif resolution > bucket.max_side:
            message = f"has {resolution}, above bucket.max_side = {bucket.max_side}: its buckets would be smaller."
            yield Finding("error", field, message, f"Raise bucket.max_side to {2 * resolution}.")
        elif resolution < bucket.min_side:
            message = f"has {resolution}, below bucket.min_side = {bucket.min_side}: no bucket is possible."
            yield Finding("error", field, message, f"Lower bucket.min_side to {max(8, resolution // 2)}.")
    if len(set(resolutions)) < len(resolutions):
        yield Finding("warning", field, "names a resolution twice; it is used once.", "Use `repeats` to see it more.")
