"""Decode pictures, by one rule that has a version. Imports no Pillow until a picture is decoded.

The rule: the first frame; rotated as EXIF says; colours as stored (ICC profiles are not applied); transparency laid on
white; CMYK by Pillow's formula, inverted as Adobe writes it; 16-bit, 32-bit and float greyscale scaled to 8 bits, not
clipped; damaged files refused, never filled up.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.data.pictures.crops_and_views import UNCHANGED_COLOR
from trainer_core.types import JSON, Geometry, View

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

DECODE_VERSION = 1
"""Raise it when `load_rgb` or `to_bucket` give other pixels for the same file: all latents are encoded again."""
MAX_PIXELS = 400_000_000
"""A picture with more is refused: decoded it would take more than 1.2 GB."""

UNREADABLE = "unreadable"
TRANSPARENT = "has transparency, laid on white"
"""The note of a picture with an alpha channel that hides something."""
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class PictureInfo:
    """What decoding a picture told: sizes in pixels after EXIF rotation; 0 and "" where `problem` says why it failed.

    `mode` is Pillow's name of the stored pixel format, `frames` their number (1 unless animated or several pages).
    `notes` are things worth counting, each the same text for every picture it is true of.
    """

    width: int
    height: int
    mode: str
    frames: int
    problem: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def lasting(self) -> bool:
        """Whether this is true of the bytes for ever; False where the machine failed: never remember that."""
        return self.problem is None or not self.problem.startswith((UNREADABLE, OUT_OF_MEMORY))

    def to_json(self) -> JSON:
        """Return the JSON form, for remembering it by the content of the file."""
        return {**asdict(self), "notes": list(self.notes)}

    @classmethod
    def from_json(cls, value: JSON) -> PictureInfo:
        """Invert `to_json`."""
        return cls(**(value | {"notes": tuple(value["notes"])}))


class PictureProblem(Exception):
    """A picture cannot be decoded; the text is "cause: detail"."""


def probe(source: Path | bytes) -> PictureInfo:
    """Decode a picture completely and say what it is. Never raises for what is wrong with a picture. Thread-safe."""
    from trainer_core.data.pictures import pixels

    try:
        picture = pixels.decode(source, count_frames=True)
    except PictureProblem as problem:
        return PictureInfo(0, 0, "", 0, str(problem))
    width, height = picture.image.size
    return PictureInfo(width, height, picture.mode, picture.frames, None, picture.notes)


def load_rgb(source: Path | bytes) -> Image.Image:
    """Decode a picture, given its path or its bytes, to 8-bit RGB in the upright position. Thread-safe.

    Raises:
        PictureProblem: the picture cannot be decoded whole.
    """
    from trainer_core.data.pictures import pixels

    return pixels.decode(source, count_frames=False).image


def to_view(image: Image.Image, view: View) -> NDArray[np.uint8]:
    """Cut an upright RGB picture as `to_bucket`, change its colours, mirror it. Returns a uint8 array [H, W, 3]."""
    pixels = to_bucket(image, view.geometry)
    if view.color != UNCHANGED_COLOR:
        from trainer_core.data.pictures.color_jitter import change_colors

        pixels = change_colors(pixels, view.color)
    return pixels[:, ::-1] if view.flip else pixels


def to_bucket(image: Image.Image, geometry: Geometry) -> NDArray[np.uint8]:
    """Resize (Lanczos, no shortcuts) and crop an upright RGB picture. Returns a writable uint8 array [H, W, 3]."""
    from trainer_core.data.pictures import pixels

    return pixels.to_bucket(image, geometry)
