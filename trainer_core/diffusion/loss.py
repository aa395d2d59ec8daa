"""Functions of the error between prediction and target, in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_SMALLEST_MEAN = 1e-6
"""Of masks that others are divided by: a mask that is black everywhere trains nothing."""


def per_sample_mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of each sample [B], float32; both inputs [B, ...] of one shape."""
    return per_sample_error(prediction, target, "l2")


def per_sample_error(
    prediction: Tensor, target: Tensor, kind: str, threshold: Tensor | None = None, pixels: Tensor | None = None
) -> Tensor:
    """Return the mean error of each sample [B], float32.

    Args:
        prediction: [B, C, h, w], in any precision.
        target: of the same shape.
        kind: a name of `ERRORS`.
        threshold: [B], for the Huber losses: the error at which they turn from square to linear.
        pixels: [B, 1, h, w], what the error of each latent pixel is multiplied by.
    """
    assert prediction.shape == target.shape, f"{prediction.shape} != {target.shape}"
    difference = prediction.float() - target.float()
    if threshold is not None:
        threshold = threshold.reshape(-1, *[1] * (difference.ndim - 1))
    error = ERRORS[kind](difference, threshold)
    if pixels is not None:
        error = error * pixels
    return error.flatten(1).mean(dim=1)


def pixel_weights(masks: Tensor, floor: float, normalise: bool) -> Tensor:
    """Return the weights of latent pixels [B, 1, h, w] float32.

    Args:
        masks: [B, 1, h, w] in [0, 1].
        floor: weight of black; white keeps 1, and grey lies between.
        normalise: divide each sample's weights by their mean, so that its loss is the mean over what is trained.
    """
    weights = floor + (1.0 - floor) * masks.float()
    if not normalise:
        return weights
    return weights / weights.mean(dim=(1, 2, 3), keepdim=True).clamp(min=_SMALLEST_MEAN)


def _l2(difference: Tensor, threshold: Tensor | None) -> Tensor:
    return difference.square()


def _l1(difference: Tensor, threshold: Tensor | None) -> Tensor:
    return difference.abs()


def _smooth_l1(difference: Tensor, threshold: Tensor | None) -> Tensor:
    """Pseudo-Huber of one slope: 2 * (sqrt(e^2 + c^2) - c), which is 2|e| far off, and e^2 / c near 0."""
    assert threshold is not None
    square = difference.square()
    # the same as a quotient: the difference of two nearly equal roots would lose small errors
    return 2.0 * square / (torch.sqrt(square + threshold.square()) + threshold)


def _huber(difference: Tensor, threshold: Tensor | None) -> Tensor:
    """Pseudo-Huber: 2c * (sqrt(e^2 + c^2) - c), which is e^2 near 0. Source: arXiv 2403.16728."""
    assert threshold is not None
    return threshold * _smooth_l1(difference, threshold)


ERRORS: Mapping[str, Callable[[Tensor, Tensor | None], Tensor]] = {
    "l2": _l2,
    "l1": _l1,
    "huber": _huber,
    "smooth_l1": _smooth_l1,
}
"""`loss.type` -> (difference, threshold) -> error of each number."""
HUBER = frozenset({"huber", "smooth_l1"})
"""Those with a threshold."""
