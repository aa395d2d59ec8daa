"""Pictures as stages read them: the very bytes whose hash is in a key."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.data.pictures.picture_info import PictureProblem
from trainer_core.errors import DatasetError
from trainer_core.files import FileChanged, read_verified

if TYPE_CHECKING:
    from PIL import Image


def read_picture(path: Path, sha256: str) -> Image.Image:
    """Decode a picture to RGB, upright, in its own size.

    Raises:
        DatasetError: the picture changed after it was looked at, or cannot be decoded.
    """
    from trainer_core.data.pictures.decode import load_rgb

    return _decoded(path, sha256, load_rgb)


def read_mask(path: Path, sha256: str, alpha: bool) -> Image.Image:
    """Decode a mask to grey, upright, in its own size; with `alpha`, the opacity of a picture.

    Raises:
        DatasetError: the file changed after it was looked at, or cannot be decoded.
    """
    from trainer_core.data.pictures.mask_pixels import load_mask

    return _decoded(path, sha256, partial(load_mask, alpha=alpha))


def _decoded(path: Path, sha256: str, decode: Callable[[bytes], Image.Image]) -> Image.Image:
    try:
        data = read_verified(path, sha256)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}. Run again when it is there.") from error
    except FileChanged as error:
        raise DatasetError(f"{path}: changed while it was in use. Run again when it is complete.") from error
    try:
        return decode(data)
    except PictureProblem as problem:
        raise DatasetError(f"{path}: {problem}") from problem
