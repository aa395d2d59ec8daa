"""The same picture at several resolutions: a sample for each, in buckets of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from trainer_core.config.groups import BucketConfig
from trainer_core.data.pictures.buckets import SDXL_RESOLUTION, BucketGrid, make_grid, sdxl_resolution_finding
from trainer_core.types import Finding

_AT = re.compile(r"@[0-9]+$")


class ResolutionGrid(NamedTuple):
    """The buckets of one resolution, and the suffix of the ids of samples that are trained at it."""

    suffix: str
    grid: BucketGrid


def bucket_grids(
    resolutions: Mapping[str, Sequence[int]], bucket: BucketConfig, multiple: int
) -> Mapping[str, Sequence[ResolutionGrid]]:
    """Return the bucket grids of each dataset, one for each of its resolutions; ids of a single one get no suffix.

    Args:
        resolutions: dataset name -> its own resolutions in pixels; none for `bucket.resolution`.
        bucket: the project's settings.
        multiple: the family's `size_multiple` in pixels.

    Raises:
        ConfigError: the bucket settings leave no bucket for a resolution.
    """
    made: dict[int, BucketGrid] = {}
    grids: dict[str, list[ResolutionGrid]] = {}
    for name, own in resolutions.items():
        wanted = tuple(dict.fromkeys(own)) or (bucket.resolution,)
        for resolution in wanted:
            if resolution not in made:
                made[resolution] = make_grid(bucket.model_copy(update={"resolution": resolution}), multiple)
        several = len(wanted) > 1
        grids[name] = [ResolutionGrid(f"@{side}" if several else "", made[side]) for side in wanted]
    return grids


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
