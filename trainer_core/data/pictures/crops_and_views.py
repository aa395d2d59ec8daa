"""Ways to see a picture: which part is cut, whether it is mirrored, in which colours. Opens no picture.

A random view is a function of the picture's content and the view's number, never of the training seed or the file's
name: all runs over the same pictures share what they encode, and a renamed picture is not encoded again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from trainer_core.types import Geometry, View

if TYPE_CHECKING:
    from trainer_core.config.groups import AugmentConfig
    from trainer_core.types import JSON, Sample

VIEWS_VERSION = 1
"""Raise it when mirroring or changing colours gives other pixels for the same view."""
UNCHANGED_COLOR = (1.0, 1.0, 1.0, 0.0)
"""The colours of a view as they are."""
Focus = Callable[[Geometry], Geometry]
"""Moves a cut to what must be seen."""


def is_plain(augment: AugmentConfig) -> bool:
    """Say whether every picture has one view, cut at its centre."""
    return augment.crop == "center" and not augment.flip and not augment.color


def augmented_views(
    plain: Geometry, content: str, augment: AugmentConfig, focus: Focus | None
) -> tuple[Geometry, tuple[View, ...]]:
    """Return the cut that stands for a picture, and its views: none where that cut, as it is, is all there is to see.

    Args:
        plain: cut at the centre.
        content: SHA-256 of the picture's bytes.
        augment: what differs from draw to draw.
        focus: for cuts around a face or a mask, where this picture has one.
    """
    cut = plain if focus is None else focus(plain)
    views = [View(cut)]
    if augment.crop == "random" or augment.color:
        views = [
            View(
                random_crop(plain, content, number, augment.crop_scale) if augment.crop == "random" else cut,
                color=random_color(content, number, augment.color) if augment.color else UNCHANGED_COLOR,
            )
            for number in range(augment.variants)
        ]
    if augment.flip:
        views += [replace(view, flip=True) for view in views]
    distinct = tuple(dict.fromkeys(views))
    return cut, () if distinct == (View(cut),) else distinct


def random_crop(plain: Geometry, content: str, number: int, most: float) -> Geometry:
    """Enlarge by a factor that is uniform in [1, most] and cut anywhere with equal probability."""
    factor = 1.0 + (most - 1.0) * hash_uniform("scale", content, number)
    (high, wide), (height, width) = plain.resized, plain.target
    high, wide = max(high, round(high * factor)), max(wide, round(wide * factor))
    top = int(hash_uniform("top", content, number) * (high - height + 1))
    left = int(hash_uniform("left", content, number) * (wide - width + 1))
    return Geometry(plain.original, (high, wide), (top, left), plain.target)


def random_color(content: str, number: int, strength: float) -> tuple[float, float, float, float]:
    """Return factors of brightness, contrast and saturation, uniform in 1 +- strength, and a turn in +- strength/2."""
    spread = [
        2.0 * hash_uniform(what, content, number) - 1.0 for what in ("brightness", "contrast", "saturation", "hue")
    ]
    brightness, contrast, saturation = (round(1.0 + strength * one, 6) for one in spread[:3])
    return brightness, contrast, saturation, round(0.5 * strength * spread[3], 6)


def recenter_crop(plain: Geometry, x: float, y: float) -> Geometry:
    """Move a cut so that the point (x, y), as shares of the picture's width and height, is as central as can be."""
    (high, wide), (height, width) = plain.resized, plain.target
    return replace(plain, crop=(_centred(y * high, height, high), _centred(x * wide, width, wide)))


def mirrored(geometry: Geometry) -> Geometry:
    """Return the geometry of a cut in the picture's mirror image: what SDXL is told of a view that is mirrored.

    The distance from the left edge becomes that from the right one.
    """
    top, left = geometry.crop
    return replace(geometry, crop=(top, geometry.resized[1] - geometry.target[1] - left))


def view_geometry(view: View) -> Geometry:
    """Return the geometry of what a view shows."""
    return mirrored(view.geometry) if view.flip else view.geometry


def view_id(sample: str, number: int) -> str:
    """Return the name of a view's entry: the sample's own for the first."""
    return sample if number == 0 else f"{sample} [view {number + 1}]"


def views_of(sample: Sample) -> tuple[View, ...]:
    """Return the views of a sample, of which there is one at least."""
    return sample.views or (View(sample.geometry),)


def key_parts(view: View) -> dict[str, JSON]:
    """Return how a view's pixels differ from the plain cut, as parts of its key; empty if they do not."""
    found: dict[str, JSON] = {}
    if view.flip:
        found["flip"] = VIEWS_VERSION
    if view.color != UNCHANGED_COLOR:
        found["color"] = [VIEWS_VERSION, *view.color]
    return found


def hash_uniform(purpose: str, content: str, number: int) -> float:
    """Return a number in [0, 1) that depends on what it is for, the picture and the number of the view."""
    text = json.dumps(["view", purpose, content, number])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "little") / 2**48


def _centred(point: float, window: int, length: int) -> int:
    return min(max(round(point - window / 2), 0), length - window)
