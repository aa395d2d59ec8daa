"""Masks as pixels, with Pillow and numpy. Import it when a mask must be decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer_core.data.pictures.decode import decode, decode_alpha
from trainer_core.data.pictures.mask_crop import BINS, MaskProfile
from trainer_core.types import View


def load_mask(source: Path | bytes, *, alpha: bool) -> Image.Image:
    """Decode a mask to 8-bit grey, upright: its luma, or with `alpha` the opacity of a picture.

    Raises:
        PictureProblem: it cannot be decoded whole.
    """
    if alpha:
        return decode_alpha(source)
    return decode(source, count_frames=False).image.convert("L")


def to_latent_mask(image: Image.Image, view: View, factor: int) -> NDArray[np.float32]:
    """Cut and mirror a mask as its picture; return the mean of each square of `factor` pixels, [h, w] in [0, 1].

    A mask of another size than its picture is scaled with it. Box filters throughout: no value is invented.
    """
    geometry = view.geometry
    (high, wide), (height, width), (top, left) = geometry.resized, geometry.target, geometry.crop
    assert height % factor == width % factor == 0
    resized = np.asarray(image.resize((wide, high), Image.Resampling.BOX))
    cut = resized[top : top + height, left : left + width]
    if view.flip:
        cut = cut[:, ::-1]
    squares = cut.reshape(height // factor, factor, width // factor, factor).astype(np.float32)
    return squares.mean(axis=(1, 3)) / np.float32(255.0)


def mask_profile(image: Image.Image) -> MaskProfile:
    """Say where the weight of a mask lies."""
    weight = np.asarray(image).astype(np.float64) / 255.0
    mean = float(weight.mean())
    if not mean:
        return MaskProfile(0.0, (0.0,) * (BINS + 1), (0.0,) * (BINS + 1))
    return MaskProfile(round(mean, 9) or mean, _shares(weight.sum(axis=0)), _shares(weight.sum(axis=1)))


def _shares(weights: NDArray[np.float64]) -> tuple[float, ...]:
    """Return the share of the weight before each of `BINS` + 1 equally spaced places."""
    before = np.concatenate([[0.0], np.cumsum(weights)])
    positions = np.linspace(0, len(weights), BINS + 1)
    shares = np.interp(positions, np.arange(len(before)), before) / before[-1]
    return tuple(round(float(share), 6) for share in shares)
