"""GLoRA: W A + B, where A and B are low-rank (arXiv 2306.07967; KohakuBlueleaf/LyCORIS)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer_core.adapter_kinds.kind import (
    FACTORED,
    TRAINS_NORMS,
    AdapterKind,
    AdapterTarget,
    Call,
    LayerKind,
    Shape,
    Tensors,
    kaiming,
    scale,
)
from trainer_core.lazy import functional, torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from trainer_core.config.groups import AdapterOptionsConfig


def start(target: AdapterTarget, options: AdapterOptionsConfig, generator: Generator) -> dict[str, Tensor]:
    """Return Kaiming-uniform outer factors, and inner ones of zeros."""
    out, into, *kernel = target.shape
    rank, ones = target.rank, [1] * len(kernel)
    return {
        "a1.weight": kaiming((into, rank, *ones), generator),
        "a2.weight": torch.zeros(rank, into, *ones),
        "b1.weight": kaiming((out, rank, *ones), generator),
        "b2.weight": torch.zeros(rank, into, *kernel),
        "alpha": torch.tensor(target.alpha),
    }


def update(tensors: Tensors, call: Call) -> Tensor:
    """Return alpha / rank * (W a1 a2 x + b1 b2 x)."""
    factor, weight = scale(tensors, tensors["a2.weight"].shape[0]), call.weight()
    if tensors["a2.weight"].ndim == 2:
        inner = _kept(functional.linear(call.x, tensors["a2.weight"]), call)
        changed = functional.linear(inner, tensors["a1.weight"])
        low = functional.linear(_kept(functional.linear(call.x, tensors["b2.weight"]), call), tensors["b1.weight"])
    else:
        strides: dict[str, Any] = dict(call.strides)
        inner = _kept(functional.conv2d(call.x, tensors["a2.weight"]), call)
        changed = functional.conv2d(inner, tensors["a1.weight"])
        low = _kept(functional.conv2d(call.x, tensors["b2.weight"], **strides), call)
        low = functional.conv2d(low, tensors["b1.weight"])
    return (call.apply(changed.to(weight.dtype), weight) + low) * factor


def updated_shape(tensors: Tensors, shape: Shape) -> Shape:
    """Return `shape` if both products fit it."""
    changed = tensors["a1.weight"].flatten(1) @ tensors["a2.weight"].flatten(1)
    low = tensors["b1.weight"].flatten(1) @ tensors["b2.weight"].flatten(1)
    return shape if tuple(changed.shape) == (shape[1], shape[1]) and low.shape[0] == shape[0] else ()


def _kept(middle: Tensor, call: Call) -> Tensor:
    if call.keep is None:
        return middle
    return middle * (call.keep[:, None, None] if call.strides else call.keep)


_LAYER = LayerKind(
    start=start,
    update=update,
    scaled=(("a1.weight",), ("b1.weight",)),
    balance=(("a2.weight", "a1.weight"), ("b2.weight", "b1.weight")),
    rank=lambda tensors: int(tensors["a2.weight"].shape[0]),
    marks=("a1.weight",),
    ends=("a1.weight", "a2.weight", "b1.weight", "b2.weight"),
    updated_shape=updated_shape,
)
LAYERS = {"glora": _LAYER}
ADAPTERS = (AdapterKind("glora", "glora", FACTORED | TRAINS_NORMS, reads_weight=True),)
