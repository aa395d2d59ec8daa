"""Where the face of a picture is: told by the file's name, as kohya's tools write it, or found by OpenCV.

A name that ends in `_X_Y_W_H` gives the centre and the size of a face in pixels. Else OpenCV's Haar cascade looks for
faces, and the largest counts. OpenCV is asked only where `augment.crop` is `face`; its version 5 ships no detector.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer_core.data.pictures.crops_and_views import recenter_crop
from trainer_core.types import Geometry

if TYPE_CHECKING:
    from PIL import Image

FACES_VERSION = 1
"""Raise it when `find_face` finds other faces: remembered ones are looked for again."""
_CASCADE = "haarcascade_frontalface_default.xml"
_NAMED = re.compile(r".+_([0-9]+)_([0-9]+)_([0-9]+)_([0-9]+)")
_SIDE = 1024
"""Longer side in pixels at which faces are looked for."""
_SMALLEST = 0.04
"""Side of the smallest face, as a share of the longer side."""
MISSING = "OpenCV with a face detector is not installed"
INSTALL = 'pip install "lora-assets[faces]" (OpenCV 4), or tell the face in the file name: NAME_X_Y_W_H.png.'


class Face(NamedTuple):
    """The centre of a face, as shares of the picture's width and height."""

    x: float
    y: float


def face_in_name(stem: str, width: int, height: int) -> Face | None:
    """Return the face that a file's name tells of, if it lies inside the picture of `width` x `height` pixels."""
    if (match := _NAMED.fullmatch(stem)) is None:
        return None
    x, y, wide, high = (int(part) for part in match.groups())
    if not (0 < wide <= width and 0 < high <= height and x <= width and y <= height):
        return None
    return Face(x / width, y / height)


def crop_around_face(plain: Geometry, face: Face) -> Geometry:
    """Move a cut so that the face is as central as can be."""
    return recenter_crop(plain, face.x, face.y)


def load_detector() -> Any | None:
    """Return OpenCV's face detector, or None where it is not installed."""
    try:
        import cv2
    except ImportError:
        return None
    factory: Any = getattr(cv2, "CascadeClassifier", None)
    path = Path(str(getattr(getattr(cv2, "data", None), "haarcascades", ""))) / _CASCADE
    return factory(str(path)) if factory is not None and path.is_file() else None


def find_face(detector: Any, image: Image.Image) -> Face | None:
    """Return the largest face of an upright picture; of equal ones the topmost, then the leftmost."""
    import numpy as np

    width, height = image.size
    scale = min(1.0, _SIDE / max(width, height))
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    grey = np.asarray(image.convert("L").resize((wide, high)))
    least = max(20, round(_SMALLEST * max(wide, high)))
    found: Any = detector.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(least, least))
    boxes = [tuple(int(value) for value in box) for box in found]
    if not boxes:
        return None
    left, top, across, down = min(boxes, key=lambda box: (-box[2] * box[3], box[1], box[0]))
    return Face(round((left + across / 2) / wide, 6), round((top + down / 2) / high, 6))
