"""Aspect-ratio buckets: which sizes there are, which one a picture gets, how it is resized and cropped."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import lcm
from typing import Literal

from trainer_core.config.groups import BucketConfig
from trainer_core.errors import ConfigError
from trainer_core.types import Bucket, Finding, Geometry

MIN_KEPT = 0.1
"""A picture of which the crop would keep a smaller share is excluded: what is left would not show what its caption
says, and resizing a strip of 1 x 100,000 pixels to cover a bucket would need gigabytes."""
SDXL_RESOLUTION = 1024
_SDXL_WIDTHS: Mapping[int, tuple[int, ...]] = {
    512: (2048, 1984, 1920, 1856),
    576: (1792, 1728, 1664),
    640: (1600, 1536),
    704: (1472, 1408, 1344),
    768: (1344, 1280),
    832: (1216, 1152),
    896: (1152, 1088),
    960: (1088, 1024),
    1024: (1024, 960),
    1088: (960, 896),
    1152: (896, 832),
    1216: (832,),
    1280: (768,),
    1344: (768,),
    1408: (704,),
    1472: (704,),
    1536: (640,),
    1600: (640,),
    1664: (576,),
    1728: (576,),
    1792: (576,),
    1856: (512,),
    1920: (512,),
    1984: (512,),
    2048: (512,),
}
SDXL_SIZES = tuple(Bucket(width, height) for height, widths in _SDXL_WIDTHS.items() for width in widths)
"""The 40 sizes that SDXL was trained on. Source: arXiv 2307.01952, appendix I, which lists height before width."""


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
    ratio and be trained at a fraction of the resolution. `bucket.table: square` keeps the largest square alone;
    `sdxl` has sizes of its own, whatever step and sides are.

    Raises:
        ConfigError: no size fits between `min_side` and `max_side` in that area, or the table has no sizes for this
            resolution or family.
    """
    assert config.resolution and config.max_side, "what the base decides is a number in an open project"
    return _TABLES[config.table](config, multiple)


def _every_size(config: BucketConfig, multiple: int) -> BucketGrid:
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


def _square(config: BucketConfig, multiple: int) -> BucketGrid:
    step = lcm(config.step, multiple)
    side = config.resolution // step * step
    if not config.min_side <= side <= config.max_side or not side:
        raise ConfigError([_no_square(config, step, side)])
    sides = (config.min_side, config.max_side, config.resolution**2)
    return BucketGrid((Bucket(side, side),), (1.0,), step, *sides, config.upscale)


def _sdxl(config: BucketConfig, multiple: int) -> BucketGrid:
    if config.resolution != SDXL_RESOLUTION:
        raise ConfigError([sdxl_resolution_finding("bucket.resolution", config.resolution)])
    step = 64
    if step % multiple:
        message = f"`sdxl` has sizes in steps of {step}, but the family needs multiples of {multiple}."
        raise ConfigError([Finding("error", "bucket.table", message, "Set it to `grid`.")])
    sizes = sorted(SDXL_SIZES, key=lambda size: size.width / size.height)
    shortest, longest = min(one.width for one in sizes), max(one.width for one in sizes)
    ratios = tuple(size.width / size.height for size in sizes)
    return BucketGrid(tuple(sizes), ratios, step, shortest, longest, config.resolution**2, config.upscale)


_TABLES: Mapping[Literal["grid", "sdxl_sizes", "square"], Callable[[BucketConfig, int], BucketGrid]] = {
    "grid": _every_size,
    "sdxl_sizes": _sdxl,
    "square": _square,
}


def sdxl_resolution_finding(field: str, resolution: int) -> Finding:
    """Say that the sizes of SDXL are not for this resolution."""
    message = f"is {resolution}, but `bucket.table: sdxl_sizes` has the sizes of {SDXL_RESOLUTION} alone."
    return Finding("error", field, message, f"Set it to {SDXL_RESOLUTION}, or `bucket.table` to `grid`.")


def assign_bucket(width: int, height: int, grid: BucketGrid) -> Geometry | str:
    """Place a picture of `width` x `height` pixels (after EXIF rotation), or return the reason why it has no bucket.

    The bucket is the one nearest in log(width / height); between equals the larger area, then the wider one. Where the
    picture would have to grow and `upscale` is off, it is the largest size in multiples of the step that fits inside
    the picture. The picture is scaled to cover the bucket and cropped at the centre.
    """
    assert width > 0 and height > 0
    bucket = nearest_bucket(width, height, grid)
    if not grid.upscale and (width < bucket.width or height < bucket.height):
        bucket = _inside(width, height, grid)
        if min(bucket.width, bucket.height) < grid.min_side:
            return (
                f"too small: {width}x{height} is less than bucket.min_side ({grid.min_side}) and bucket.upscale is off"
            )
    geometry = cover_bucket(width, height, bucket)
    if kept_share(geometry) < MIN_KEPT:
        return f"too narrow: the crop to {bucket} would keep {kept_share(geometry):.1%} of {width}x{height}"
    return geometry


def nearest_bucket(width: int, height: int, grid: BucketGrid) -> Bucket:
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


def cover_bucket(width: int, height: int, bucket: Bucket) -> Geometry:
    """Scale to the smallest size of the same shape that covers the bucket (rounded half up), and cut its centre."""
    if bucket.width * height >= bucket.height * width:
        resized = (max(bucket.height, (2 * height * bucket.width + width) // (2 * width)), bucket.width)
    else:
        resized = (bucket.height, max(bucket.width, (2 * width * bucket.height + height) // (2 * height)))
    crop = ((resized[0] - bucket.height) // 2, (resized[1] - bucket.width) // 2)
    return Geometry((height, width), resized, crop, (bucket.height, bucket.width))


def kept_share(geometry: Geometry) -> float:
    """Return the share of the picture that the crop keeps, in (0, 1]."""
    return geometry.target[0] * geometry.target[1] / (geometry.resized[0] * geometry.resized[1])


def enlargement(geometry: Geometry) -> float:
    """Return how many times larger the picture is resized; below 1 it shrinks."""
    return max(geometry.resized[0] / geometry.original[0], geometry.resized[1] / geometry.original[1])


def _inside(width: int, height: int, grid: BucketGrid) -> Bucket:
    step, area = grid.step, grid.max_area
    wide, high = (min(side, grid.max_side) // step * step for side in (width, height))
    if grid.ratios == (1.0,):
        wide = high = min(wide, high, grid.sizes[0].width)
    elif wide * high > area and wide >= high:
        wide = area // high // step * step
    elif wide * high > area:
        high = area // wide // step * step
    return Bucket(wide, high)


def _area(bucket: Bucket) -> int:
    return bucket.width * bucket.height


def _no_bucket(config: BucketConfig, step: int) -> Finding:
    problem = f"No size in steps of {step} has sides from {config.min_side} to {config.max_side} and at most "
    fix = f"Set bucket.min_side to {max(step, config.resolution // 2 // step * step)} or raise bucket.resolution."
    return Finding("error", "bucket.min_side", f"{problem}{config.resolution}x{config.resolution} pixels.", fix)


def _no_square(config: BucketConfig, step: int, side: int) -> Finding:
    problem = f"The square of {config.resolution} in steps of {step} has a side of {side}, which is not from "
    fix = "Change bucket.resolution, bucket.min_side or bucket.max_side."
    return Finding("error", "bucket.table", f"{problem}{config.min_side} to {config.max_side}.", fix)
