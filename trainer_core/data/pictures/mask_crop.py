"""Where the weight of a mask lies, and the crop that keeps most of it. Opens no picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from trainer_core.types import JSON, Geometry

MASKS_VERSION = 1
"""Raise it when `mask_pixels` gives other values for the same mask: masks are then weighed and stored again."""
BINS = 64
"""How many equal parts of a mask's width and height its profile tells apart."""


class MaskProfile(NamedTuple):
    """Where the weight of a mask lies: its mean in [0, 1], and shares of the weight left of and above each 64th."""

    mean: float
    across: tuple[float, ...]
    down: tuple[float, ...]

    def to_json(self) -> JSON:
        """Return the JSON form, for remembering it by the content of the file."""
        return [self.mean, list(self.across), list(self.down)]

    @classmethod
    def from_json(cls, value: JSON) -> MaskProfile:
        """Invert `to_json`."""
        return cls(value[0], tuple(value[1]), tuple(value[2]))


def crop_around_mask(plain: Geometry, profile: MaskProfile) -> Geometry:
    """Move a cut to where it keeps most of a mask, as central over its weight as that allows."""
    if not profile.mean:
        return plain
    (high, wide), (height, width) = plain.resized, plain.target
    crop = (best_window_start(profile.down, high, height), best_window_start(profile.across, wide, width))
    return Geometry(plain.original, plain.resized, crop, plain.target)


def best_window_start(shares: Sequence[float], length: int, window: int) -> int:
    """Return where a window of `window` of `length` pixels holds most weight; of several, nearest to its centre.

    Args:
        shares: share of the weight before each of equally spaced places, from 0 to 1.
        length: pixels of the whole.
        window: pixels of the part.
    """
    margin, bins = length - window, len(shares) - 1
    if not margin:
        return 0
    centre = (
        sum((shares[position + 1] - shares[position]) * (position + 0.5) for position in range(bins)) / bins * length
    )
    ideal = min(max(round(centre - window / 2), 0), margin)
    edges = [round(position * length / bins) for position in range(bins + 1)]
    starts = {0, margin, ideal, *(one for edge in edges for one in (edge, edge - window) if 0 <= one <= margin)}

    def weight(start: int) -> float:
        return round(_before(shares, (start + window) / length) - _before(shares, start / length), 6)

    return max(sorted(starts), key=lambda start: (weight(start), -abs(start - ideal)))


def _before(shares: Sequence[float], position: float) -> float:
    """Return the share of the weight before a place in [0, 1]."""
    bins = len(shares) - 1
    index = min(int(position * bins), bins - 1)
    return shares[index] + (shares[index + 1] - shares[index]) * (position * bins - index)
