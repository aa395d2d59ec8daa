"""LoKr: the Kronecker product of a small matrix and a larger one, which may be low-rank (KohakuBlueleaf/LyCORIS)."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from trainer_core.config.groups import AdapterOptionsConfig


def split(dimension: int, factor: int) -> tuple[int, int]:
    """Return two factors of a dimension, the smaller first.

    Args:
        dimension: rows or columns of a weight.
        factor: the smaller one, if it divides; else the largest divisor up to it that makes the split more even, and
            the most even split for -1.
    """
    if factor > 0 and dimension % factor == 0:
        return min(factor, dimension // factor), max(factor, dimension // factor)
    limit = dimension if factor < 0 else factor
    divisors = (one for one in range(1, int(dimension**0.5) + 1) if dimension % one == 0 and one <= limit)
    smaller = max(divisors, default=1)
    return smaller, dimension // smaller


def start(target: AdapterTarget, options: AdapterOptionsConfig, generator: Generator) -> dict[str, Tensor]:
    """Return LyCORIS's start; the larger matrix is whole where its low-rank factors would not be smaller."""
    out, into, *kernel = target.shape
    (small_out, large_out), (small_in, large_in) = split(out, options.factor), split(into, options.factor)
    tensors = {"lokr_w1": kaiming((small_out, small_in), generator), "alpha": torch.tensor(target.alpha)}
    rank = target.rank
    if options.full_matrix or rank >= max(large_out, large_in) / 2:
        # nothing is low-rank, so nothing is scaled: readers take alpha = rank
        return tensors | {
            "lokr_w2": torch.zeros(large_out, large_in, *kernel),
            "alpha": torch.tensor(float(rank)),
        }
    if options.tucker and any(side > 1 for side in kernel):
        return tensors | {
            "lokr_t2": kaiming((rank, rank, *kernel), generator),
            "lokr_w2_a": kaiming((rank, large_out), generator),
            "lokr_w2_b": torch.zeros(rank, large_in),
        }
    columns = large_in * int(torch.tensor(kernel).prod()) if kernel else large_in
    return tensors | {
        "lokr_w2_a": kaiming((large_out, rank), generator),
        "lokr_w2_b": torch.zeros(rank, columns),
    }


def matrix(tensors: Tensors, shape: Shape, keep: Tensor | None) -> Tensor:
    """Return the Kronecker product of the small matrix and the large one, alpha / rank included."""
    small, large = _small(tensors), _large(tensors, shape, keep)
    return torch.kron(small.reshape(*small.shape, *[1] * (large.ndim - 2)), large).reshape(shape)


def update(tensors: Tensors, call: Call) -> Tensor:
    """Return the update of a linear layer without making its matrix: the input is cut and multiplied from two sides."""
    shape = call.weight_shape
    if len(shape) > 2:
        return call.apply(call.x, matrix(tensors, shape, call.keep))
    small, large = _small(tensors), _large(tensors, shape, call.keep)
    parts = call.x.unflatten(-1, (small.shape[1], large.shape[1]))
    return torch.einsum("ab,...bd,cd->...ac", small, parts, large).flatten(-2)


def peft_tensors(tensors: Tensors) -> Tensors:
    """Return the tensors without alpha, whose scale alpha / rank goes into the small matrix."""
    folded = {end: tensor for end, tensor in tensors.items() if end != "alpha"}
    if "lokr_w2_b" in folded:
        small = "lokr_w1" if "lokr_w1" in folded else "lokr_w1_a"
        folded[small] = folded[small] * (float(tensors["alpha"]) / folded["lokr_w2_b"].shape[0])
    return folded


def _small(tensors: Tensors) -> Tensor:
    if "lokr_w1" in tensors:
        return tensors["lokr_w1"]
    return tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]


def _large(tensors: Tensors, shape: Shape, keep: Tensor | None) -> Tensor:
    """Return the large matrix [out, in, ...], with all of the scale: 1 where nothing is low-rank."""
    kernel = shape[2:]
    low = tensors.get("lokr_w2_b", tensors.get("lokr_w1_b"))
    factor = 1.0 if low is None else scale(tensors, int(low.shape[0]))
    if "lokr_w2" in tensors:
        return tensors["lokr_w2"] * factor
    inner = tensors["lokr_w2_b"] if keep is None else tensors["lokr_w2_b"] * keep[:, None]
    if "lokr_t2" in tensors:
        return torch.einsum("ij...,ip,jr->pr...", tensors["lokr_t2"], tensors["lokr_w2_a"], inner) * factor
    whole = tensors["lokr_w2_a"] @ inner * factor
    return whole.reshape(whole.shape[0], -1, *kernel)


def _ranks(tensors: Tensors) -> int:
    return int(tensors["lokr_w2_b"].shape[0]) if "lokr_w2_b" in tensors else 0


_LAYER = LayerKind(
    start=start,
    matrix=matrix,
    update=update,
    scaled=(("lokr_w1", "lokr_w1_a"),),
    balance=(("lokr_w2_b", "lokr_w2_a"), ("lokr_w2", "lokr_w1")),
    rank=_ranks,
    marks=("lokr_w1", "lokr_w1_a"),
    ends=("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    peft_tensors=peft_tensors,
)
LAYERS = {"lokr": _LAYER}
_OPTIONS = ("tucker", "decompose", "factor", "full_matrix")
_SETTINGS = FACTORED | TRAINS_NORMS | {f"adapter_options.{name}" for name in _OPTIONS}
ADAPTERS = (AdapterKind("lokr", "lokr", _SETTINGS),)
