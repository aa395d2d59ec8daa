"""Aspect-ratio buckets: which sizes there are, which one a picture gets, how it is resized and cropped."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from math import lcm

from trainer_core.config.groups import BucketConfig
from trainer_core.errors import ConfigError
from trainer_core.types import Bucket, Finding, Geometry

MIN_KEPT = 0.1
"""A picture of which the crop would keep a smaller share is excluded: what is left would not show what its caption
says, and resizing a strip of 1 x 100,000 pixels to cover a bucket would need gigabytes."""


@dataclass(frozen=True)
class BucketGrid:
    """The sizes of a project, ordered by aspect ratio, none twice; `ratios[i]` is width / height of `sizes[i]`."""

    sizes: tuple[Bucket, ...]
    ratios: tuple[float, ...]
    step: int
    min_side: int
    max_side: int
    max_area: int
    upscale: bool


def make_grid(config: BucketConfig, multiple: int) -> BucketGrid:
    """Build the buckets. `multiple` is the family's `size_multiple`; a step that is no multiple of it becomes the lcm.

    For each width the tallest height whose area is at most resolution^2, and the other way round (kohya's rule).
    Smaller sizes of nearly the same shape are left out: a picture would land in one for the sake of a hair of aspect
    ratio and be trained at a fraction of the resolution.

    Raises:
        ConfigError: no size fits between `min_side` and `max_side` in that area.
    """
    step, area = lcm(config.step, multiple), config.resolution**2
    low, high = -(-config.min_side // step) * step, config.max_side // step * step
    best: dict[float, Bucket] = {}
    for width in range(low, high + 1, step):
        height = min(high, area // width // step * step)
        if height < low:
            continue
        for bucket in (Bucket(width, height), Bucket(height, width)):
            ratio = bucket.width / bucket.height
            best[ratio] = max(best.get(ratio, bucket), bucket, key=_area)
    if not best:
        raise ConfigError([_no_bucket(config, step)])
    ratios = tuple(sorted(best))
    return BucketGrid(
        tuple(best[ratio] for ratio in ratios), ratios, step, config.min_side, config.max_side, area, config.upscale
    )


def assign(width: int, height: int, grid: BucketGrid) -> Geometry | str:
    """Place a picture of `width` x `height` pixels (after EXIF rotation), or return the reason why it has no bucket.

    The bucket is the one nearest in log(width / height); between equals the larger area, then the wider one. Where the
    picture would have to grow and `upscale` is off, it is the largest size in multiples of the step that fits inside
    the picture. The picture is scaled to cover the bucket and cropped at the centre.
    """
    assert width > 0 and height > 0
    bucket = nearest(width, height, grid)
    if not grid.upscale and (width < bucket.width or height < bucket.height):
        bucket = _inside(width, height, grid)
        if min(bucket.width, bucket.height) < grid.min_side:
            return (
                f"too small: {width}x{height} is less than bucket.min_side ({grid.min_side}) and bucket.upscale is off"
            )
    geometry = cover(width, height, bucket)
    if kept(geometry) < MIN_KEPT:
        return f"too narrow: the crop to {bucket} would keep {kept(geometry):.1%} of {width}x{height}"
    return geometry


def nearest(width: int, height: int, grid: BucketGrid) -> Bucket:
    """Return the bucket nearest in aspect ratio, by exact comparison of the two neighbours."""
    above = bisect_left(grid.ratios, width / height)
    if above == len(grid.sizes):
        return grid.sizes[-1]
    upper, lower = grid.sizes[above], grid.sizes[max(above - 1, 0)]
    # ratio / lower against upper / ratio, cross-multiplied: logarithms would decide ties by rounding.
    to_lower = width * width * lower.height * upper.height
    to_upper = height * height * lower.width * upper.width
    if to_lower == to_upper:
        return max(lower, upper, key=lambda bucket: (_area(bucket), bucket.width))
    return lower if to_lower < to_upper else upper


def cover(width: int, height: int, bucket: Bucket) -> Geometry:
    """Scale to the smallest size of the same shape that covers the bucket (rounded half up), and cut its centre."""
    if bucket.width * height >= bucket.height * width:
        resized = (max(bucket.height, (2 * height * bucket.width + width) // (2 * width)), bucket.width)
    else:
        resized = (bucket.height, max(bucket.width, (2 * width * bucket.height + height) // (2 * height)))
    crop = ((resized[0] - bucket.height) // 2, (resized[1] - bucket.width) // 2)
    return Geometry((height, width), resized, crop, (bucket.height, bucket.width))


def kept(geometry: Geometry) -> float:
    """Return the share of the picture that the crop keeps, in (0, 1]."""
    return geometry.target[0] * geometry.target[1] / (geometry.resized[0] * geometry.resized[1])


def enlargement(geometry: Geometry) -> float:
    """Return how many times larger the picture is resized; below 1 it shrinks."""
    return max(geometry.resized[0] / geometry.original[0], geometry.resized[1] / geometry.original[1])


def _inside(width: int, height: int, grid: BucketGrid) -> Bucket:
    step, area = grid.step, grid.max_area
    wide, high = (min(side, grid.max_side) // step * step for side in (width, height))
    if wide * high > area and wide >= high:
        wide = area // high // step * step
    elif wide * high > area:
        high = area // wide // step * step
    return Bucket(wide, high)


def _area(bucket: Bucket) -> int:
    return bucket.width * bucket.height


def _no_bucket(config: BucketConfig, step: int) -> Finding:
    seen = f"No size in steps of {step} has sides from {config.min_side} to {config.max_side} and at most "
    fix = f"Set bucket.min_side to {max(step, config.resolution // 2 // step * step)} or raise bucket.resolution."
    return Finding("error", "bucket.min_side", f"{seen}{config.resolution}x{config.resolution} pixels.", fix)
