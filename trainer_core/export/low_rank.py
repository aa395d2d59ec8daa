"""Arithmetic on low-rank updates that never forms the whole matrix: fold, stack, cut, compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer_core.adapters.layers import LoraLayer
from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

_SMALL = 2.0**-10
"""Root mean square of lora_B below which half of fp16's digits could be lost: its smallest normal number is 2^-14."""


def folded(layer: LoraLayer) -> LoraLayer:
    """Return the same update with alpha = rank, for formats that hold no alpha: the scale goes into `up`."""
    return LoraLayer(layer.down, layer.up * layer.scale, float(layer.rank), layer.magnitude)


def balanced(layer: LoraLayer) -> LoraLayer:
    """Move a power of two from `down` to `up` where `up` is so small that fp16 would round it coarsely.

    Both products are exact in every precision, so the update stays as it is, bit for bit.
    """
    up, down = _root_mean_square(layer.up), _root_mean_square(layer.down)
    if not (0 < up < _SMALL and down > 0 and math.isfinite(down)):
        return layer
    shift = 2.0 ** max(0, round(math.log2(down / up) / 2))
    return LoraLayer(layer.down / shift, layer.up * shift, layer.alpha, layer.magnitude)


def stacked(parts: Sequence[tuple[LoraLayer | None, int]]) -> LoraLayer:
    """Return one layer whose output rows are those of the parts, one below the other: exact, and `balanced`.

    Parts that share one `down` (as cutting a fused layer leaves them) keep it; others are put side by side under a
    block-diagonal `up`, whose rank is the sum of theirs.

    Args:
        parts: (layer, or None for rows of zeros; number of output rows) each. At least one is a layer, none a DoRA's.
    """
    layers = [layer for layer, _ in parts if layer is not None]
    assert all(layer.magnitude is None for layer in layers), "rows that are not trained have a magnitude as well"
    first = layers[0]
    if len(parts) == 1:
        return balanced(first)
    same_scale = all(layer.scale == first.scale for layer in layers)
    if same_scale and all(_equal(layer.down, first.down) for layer in layers):
        ups = [_zeros(first.up, count, first.rank) if layer is None else layer.up for layer, count in parts]
        return balanced(LoraLayer(first.down, torch.cat(ups), first.alpha))
    if not same_scale:
        return stacked([(None if layer is None else folded(layer), count) for layer, count in parts])
    # each on its own, as a part may be far smaller than its neighbours
    layers = [balanced(layer) for layer in layers]
    rank = sum(layer.rank for layer in layers)
    up = _zeros(first.up, sum(count for _, count in parts), rank)
    row = column = 0
    rest = iter(layers)
    for trained, count in parts:
        if trained is not None:
            layer = next(rest)
            up[row : row + count, column : column + layer.rank] = layer.up
            column += layer.rank
        row += count
    return LoraLayer(torch.cat([layer.down for layer in layers]), up, first.scale * rank)


def rows(layer: LoraLayer, start: int, stop: int) -> LoraLayer | None:
    """Return the part of an update that gives output rows `start` to `stop`; None if it is zero.

    Columns of `up` that are zero there are left out with their rows of `down`: exact, and it undoes `stacked`.
    """
    up = layer.up[start:stop]
    used = up.flatten(1).ne(0).any(dim=0) if up.ndim == 2 else up.ne(0).flatten(2).any(dim=2).any(dim=0)
    if not bool(used.any()):
        return None
    rank = int(used.sum())
    magnitude = None if layer.magnitude is None else layer.magnitude[start:stop].contiguous()
    return LoraLayer(layer.down[used].contiguous(), up[:, used].contiguous(), layer.scale * rank, magnitude)


def norm(layer: LoraLayer) -> float:
    """Return the Frobenius norm of alpha / rank * up @ down."""
    return _product_norm(_up(layer), _down(layer))


def relative_error(found: LoraLayer | None, wanted: LoraLayer | None) -> float:
    """Return |found - wanted| / |wanted| (Frobenius norms) of two updates, in float64; None is an update of zero.

    The difference of two products is one product of twice the rank, and the norm of a product follows from the small
    Gram matrices of its factors: |U V|^2 = tr((U^T U)(V V^T)).
    """
    size = 0.0 if wanted is None else norm(wanted)
    if found is None or wanted is None:
        other = 0.0 if found is None else norm(found)
        return 0.0 if size == other == 0 else math.inf if wanted is None else 1.0
    up = torch.cat([_up(found), -_up(wanted)], dim=1)
    error = _product_norm(up, torch.cat([_down(found), _down(wanted)]))
    product = error / size if size else (0.0 if norm(found) == 0 else math.inf)
    return max(product, _magnitude_error(found.magnitude, wanted.magnitude))


def _magnitude_error(found: Tensor | None, wanted: Tensor | None) -> float:
    """Return the relative error of DoRA's magnitudes."""
    if found is None or wanted is None:
        return 0.0 if found is wanted else math.inf
    difference = found.flatten().double() - wanted.flatten().double()
    return float(difference.norm() / wanted.double().norm())


def _up(layer: LoraLayer) -> Tensor:
    return layer.up.double().flatten(1) * layer.scale


def _down(layer: LoraLayer) -> Tensor:
    return layer.down.double().flatten(1)


def _product_norm(up: Tensor, down: Tensor) -> float:
    return math.sqrt(max(0.0, float(((up.T @ up) * (down @ down.T).T).sum())))


def _root_mean_square(tensor: Tensor) -> float:
    return float(tensor.float().square().mean().sqrt())


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second)


def _zeros(like: Tensor, count: int, rank: int) -> Tensor:
    return torch.zeros(count, rank, *like.shape[2:], dtype=like.dtype)
