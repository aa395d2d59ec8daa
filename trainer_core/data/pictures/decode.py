"""Decode pictures and cut them to their buckets, with Pillow and numpy. Import it when a picture must be decoded.

The rule, whose version is `DECODE_VERSION`: the first frame; rotated as EXIF says; colours as stored (ICC profiles are
not applied); transparency laid on white; CMYK by Pillow's formula, inverted as Adobe writes it; 16-bit, 32-bit and
float greyscale scaled to 8 bits, not clipped; damaged files refused, never filled up.
"""

from __future__ import annotations

import importlib
import io
import struct
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer_core.data.pictures.color_jitter import change_colors
from trainer_core.data.pictures.crops_and_views import UNCHANGED_COLOR
from trainer_core.data.pictures.picture_info import (
    OUT_OF_MEMORY,
    TRANSPARENT,
    UNREADABLE,
    PictureInfo,
    PictureProblem,
)
from trainer_core.types import Geometry, View

MAX_PIXELS = 400_000_000
"""A picture with more pixels is refused: decoded it would take more than 1.2 GB."""
PLUGINS = {"PNG": "Png", "JPEG": "Jpeg", "WEBP": "WebP", "BMP": "Bmp", "GIF": "Gif", "TIFF": "Tiff", "AVIF": "Avif"}
"""Formats that are opened, whatever a file's ending says, with their modules. Nothing else of Pillow's can be
reached."""
PILLOW = r"PIL\."
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture upright (the table of Pillow's ImageOps.exif_transpose)."""
ANIMATED = "has several frames or pages; only the first is used"
ROTATED = "is rotated as its EXIF orientation says"
BAD_EXIF = "has EXIF data that cannot be read; it is not rotated"
DEEP = "has more than 8 bits a pixel of grey, scaled to 8 bits"
PROFILE = "has an ICC profile other than sRGB, which is ignored"
# Pillow raises these, and more, for damaged files; a broken file must never end a run.
DAMAGE = (OSError, ValueError, SyntaxError, struct.error, IndexError, KeyError, TypeError, AttributeError, EOFError)
RARE = (ZeroDivisionError, OverflowError, RuntimeError, AssertionError, zlib.error)
FAILURES = (*DAMAGE, *RARE, Image.DecompressionBombError)


@dataclass(frozen=True)
class Decoded:
    """An upright RGB picture, the mode it was stored in, its number of frames and what is worth noting."""

    image: Image.Image
    mode: str
    frames: int
    notes: tuple[str, ...]


def probe(source: Path | bytes) -> PictureInfo:
    """Decode a picture completely and describe it. A damaged picture is a `problem`, not an error. Thread-safe."""
    try:
        picture = decode(source, count_frames=True)
    except PictureProblem as problem:
        return PictureInfo(0, 0, "", 0, str(problem))
    width, height = picture.image.size
    return PictureInfo(width, height, picture.mode, picture.frames, None, picture.notes)


def load_rgb(source: Path | bytes) -> Image.Image:
    """Decode a picture, given its path or its bytes, to 8-bit RGB in the upright position. Thread-safe.

    Raises:
        PictureProblem: the picture cannot be decoded completely.
    """
    return decode(source, count_frames=False).image


def decode(source: Path | bytes, *, count_frames: bool) -> Decoded:
    """Decode by the rule of this module.

    Raises:
        PictureProblem: with the cause.
    """
    raw = _read(source)
    if not raw:
        raise PictureProblem("empty file: it has 0 bytes")
    _silence_pillow()
    stored = _open(raw)
    width, height = stored.size
    if width * height > MAX_PIXELS:
        raise PictureProblem(f"too large: {width}x{height} is more than {MAX_PIXELS // 1_000_000} million pixels")
    try:
        stored.load()
        notes: list[str] = []
        image = _upright(_to_rgb(stored, notes), stored, notes)
        frames = _frames(stored) if count_frames else 1
    except PictureProblem:
        raise
    except MemoryError as error:
        raise PictureProblem(f"{OUT_OF_MEMORY}: {width}x{height} pixels did not fit") from error
    except FAILURES as error:
        raise PictureProblem(f"damaged: {_text(error)}") from error
    if frames > 1:
        notes.append(ANIMATED)
    if _has_profile(stored):
        notes.append(PROFILE)
    return Decoded(image, stored.mode, frames, tuple(sorted(notes)))


def decode_alpha(source: Path | bytes) -> Image.Image:
    """Decode the alpha channel of a picture to 8-bit grey, upright; 255 is opaque.

    Raises:
        PictureProblem: with the cause.
    """
    raw = _read(source)
    _silence_pillow()
    stored = _open(raw)
    try:
        stored.load()
        return _upright(stored.convert("RGBA").getchannel("A"), stored, [])
    except MemoryError as error:
        raise PictureProblem(f"{OUT_OF_MEMORY}: its pixels did not fit") from error
    except FAILURES as error:
        raise PictureProblem(f"damaged: {_text(error)}") from error


def to_view(image: Image.Image, view: View) -> NDArray[np.uint8]:
    """Crop an upright RGB picture as `to_bucket` does, change its colours, mirror it. Returns uint8 [H, W, 3]."""
    pixels = to_bucket(image, view.geometry)
    if view.color != UNCHANGED_COLOR:
        pixels = change_colors(pixels, view.color)
    return pixels[:, ::-1] if view.flip else pixels


def to_bucket(image: Image.Image, geometry: Geometry) -> NDArray[np.uint8]:
    """Resize (Lanczos) to `geometry.resized`, crop `geometry.target` at `geometry.crop`.

    Returns a writable uint8 array [H, W, 3].
    """
    assert image.mode == "RGB" and image.size == geometry.original[::-1]
    (high, wide), (height, width), (top, left) = geometry.resized, geometry.target, geometry.crop
    resized = image.resize((wide, high), Image.Resampling.LANCZOS, reducing_gap=None)
    return np.array(resized.crop((left, top, left + width, top + height)), dtype=np.uint8)


def _read(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise PictureProblem(f"{UNREADABLE}: {error.strerror or error}") from error


def _silence_pillow() -> None:
    """Keep Pillow's warnings about single files from users: each becomes a problem, a note, or does not matter.

    One filter for the process, about Pillow's modules alone. `warnings.catch_warnings` is not safe between threads.
    """
    module = warnings.filters[0][3] if warnings.filters else None
    if getattr(module, "pattern", None) != PILLOW:
        warnings.filterwarnings("ignore", module=PILLOW)


def _open(raw: bytes) -> Image.Image:
    """Do as `Image.open`, whose pixel limit lies below real photographs and is a global of the whole process."""
    stream = io.BytesIO(raw)
    causes: list[str] = []
    for name, plugin in PLUGINS.items():
        importlib.import_module(f"PIL.{plugin}ImagePlugin")
        factory, accept = Image.OPEN[name]
        verdict = accept(raw[:16]) if accept else True
        if isinstance(verdict, str):
            raise PictureProblem(f"no decoder: {verdict}")
        if not verdict:
            continue
        try:
            stream.seek(0)
            return factory(stream, "")
        except FAILURES as error:
            causes.append(f"{name}: {_text(error)}")
    if causes:
        raise PictureProblem(f"damaged: {'; '.join(causes)}")
    raise PictureProblem(f"not a picture: its bytes are none of {', '.join(PLUGINS)}")


def _to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    if image.mode == "F" or image.mode == "I" or image.mode.startswith("I;"):
        notes.append(DEEP)
        return Image.fromarray(_grey8(np.asarray(image))).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema() == (255, 255):
        return rgba.convert("RGB")
    notes.append(TRANSPARENT)
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _grey8(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale grey [H, W] to 8 bits by its range: 0..1 (floats), 0..255 (floats), 0..65535, else lowest to highest."""
    floats = values.dtype.kind == "f"
    if values.dtype.itemsize == 2:
        # (v + 128) // 257 is v * 255 / 65535 rounded half up; a table keeps large pictures in 2 bytes a pixel.
        return ((np.arange(65536) + 128) // 257).astype(np.uint8)[values]
    grey = values.astype(np.float64)
    if not np.isfinite(grey).all():
        raise PictureProblem("not finite: it contains NaN or infinity")
    low, high = float(grey.min()), float(grey.max())
    limits = (1.0, 255.0, 65535.0) if floats else (65535.0,)
    top = next((limit for limit in limits if low >= 0.0 and high <= limit), None)
    if top is None:
        grey, top = grey - low, max(high - low, 1e-300)
    return np.floor(grey / top * 255.0 + 0.5).astype(np.uint8)


def _upright(image: Image.Image, stored: Image.Image, notes: list[str]) -> Image.Image:
    """Turn the picture. Asked after loading: Pillow has turned TIFF by then; PNG may have EXIF after its pixels."""
    try:
        turn = TURNS.get(stored.getexif().get(ORIENTATION, 1))
    except FAILURES:
        notes.append(BAD_EXIF)
        return image
    if turn is None:
        return image
    notes.append(ROTATED)
    return image.transpose(turn)


def _frames(image: Image.Image) -> int:
    with suppress(*FAILURES):
        return int(getattr(image, "n_frames", 1))
    return 1


def _has_profile(image: Image.Image) -> bool:
    profile = cast("bytes", image.info.get("icc_profile") or b"")
    return bool(profile) and b"sRGB" not in profile and "sRGB".encode("utf-16-be") not in profile


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
