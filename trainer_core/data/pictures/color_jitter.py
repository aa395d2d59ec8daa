"""Changes of a picture's colours, exact to the bit on every machine: element by element, rounded once at the end.

Brightness multiplies. Contrast moves away from the mean grey of the picture, saturation from each pixel's own grey. Hue
turns around the grey axis of YIQ, which keeps the luma (ITU-R BT.601).
"""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

LUMA = (0.299, 0.587, 0.114)
_TO_CHROMA = ((0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
_FROM_CHROMA = ((0.95617069, 0.62143257), (-0.2726886, -0.64681324), (-1.10374408, 1.70062309))
Plane = NDArray[np.float32]


def change_colors(pixels: NDArray[np.uint8], color: tuple[float, float, float, float]) -> NDArray[np.uint8]:
    """Return a changed copy of a picture [H, W, 3].

    Args:
        pixels: RGB.
        color: factors of brightness, contrast and saturation, each 1 for none, then the turn of the hue as a share of
            the circle, 0 for none.
    """
    brightness, contrast, saturation, turn = color
    planes = [pixels[..., channel].astype(np.float32) * np.float32(brightness) for channel in range(3)]
    mean = float(_luma(planes).mean(dtype=np.float64))
    planes = [_away(plane, np.float32(mean), contrast) for plane in planes]
    grey = _luma(planes)
    planes = _turned([_away(plane, grey, saturation) for plane in planes], turn)
    return np.floor(np.clip(np.stack(planes, -1), 0.0, 255.0) + np.float32(0.5)).astype(np.uint8)


def _luma(planes: list[Plane]) -> Plane:
    return _mix(planes, LUMA)


def _away(plane: Plane, grey: Plane | np.float32, factor: float) -> Plane:
    return grey + (plane - grey) * np.float32(factor)


def _turned(planes: list[Plane], turn: float) -> list[Plane]:
    if turn == 0.0:
        return planes
    luma, (first, second) = _luma(planes), (_mix(planes, row) for row in _TO_CHROMA)
    cosine, sine = np.float32(cos(2 * pi * turn)), np.float32(sin(2 * pi * turn))
    turned = (first * cosine - second * sine, first * sine + second * cosine)
    chroma = [plane.astype(np.float32, copy=False) for plane in turned]
    return [luma + _mix(chroma, row) for row in _FROM_CHROMA]


def _mix(planes: list[Plane], weights: tuple[float, ...]) -> Plane:
    total = planes[0] * np.float32(weights[0])
    for plane, weight in zip(planes[1:], weights[1:], strict=True):
        total = total + plane * np.float32(weight)
    return total
