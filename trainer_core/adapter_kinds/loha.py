"""LoHa: the elementwise product of two low-rank matrices (FedPara, arXiv 2108.06098; KohakuBlueleaf/LyCORIS)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer_core.adapter_kinds.kind import (
    FACTORED,
    TRAINS_NORMS,
    AdapterKind,
    AdapterTarget,
    LayerKind,
    Shape,
    Tensors,
    normal,
    scale,
)
from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from trainer_core.config.groups import AdapterOptionsConfig


def start(target: AdapterTarget, options: AdapterOptionsConfig, generator: Generator) -> dict[str, Tensor]:
    """Return LyCORIS's start: everything normal, but one factor of zeros."""
    out, into, *kernel = target.shape
    rank = target.rank
    alpha = {"alpha": torch.tensor(target.alpha)}
    if options.tucker and any(side > 1 for side in kernel):
        return alpha | {
            "hada_t1": normal((rank, rank, *kernel), 0.1, generator),
            "hada_w1_a": normal((rank, out), 0.1, generator),
            "hada_w1_b": normal((rank, into), 1.0, generator),
            "hada_t2": normal((rank, rank, *kernel), 0.1, generator),
            "hada_w2_a": torch.zeros(rank, out),
            "hada_w2_b": normal((rank, into), 1.0, generator),
        }
    columns = into * int(torch.tensor(kernel).prod()) if kernel else into
    return alpha | {
        "hada_w1_a": normal((out, rank), 0.1, generator),
        "hada_w1_b": normal((rank, columns), 1.0, generator),
        "hada_w2_a": torch.zeros(out, rank),
        "hada_w2_b": normal((rank, columns), 1.0, generator),
    }


def matrix(tensors: Tensors, shape: Shape, keep: Tensor | None) -> Tensor:
    """Return alpha / rank * (w1_a @ w1_b) * (w2_a @ w2_b); with `keep` on the second factor's ranks."""
    second = tensors["hada_w2_b"]
    if keep is not None:
        second = second * keep[:, None]
    factor = scale(tensors, second.shape[0])
    if "hada_t1" in tensors:
        one, two = (
            torch.einsum("ij...,ip,jr->pr...", tensors[f"hada_t{number}"], tensors[f"hada_w{number}_a"], inner)
            for number, inner in ((1, tensors["hada_w1_b"]), (2, second))
        )
    else:
        one, two = tensors["hada_w1_a"] @ tensors["hada_w1_b"], tensors["hada_w2_a"] @ second
    return (one * two * factor).reshape(shape)


_LAYER = LayerKind(
    start=start,
    matrix=matrix,
    scaled=(("hada_w1_a",),),
    balance=(("hada_w2_a", "hada_w2_b"),),
    rank=lambda tensors: int(tensors["hada_w2_b"].shape[0]),
    marks=("hada_w1_a",),
    ends=("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
)
LAYERS = {"loha": _LAYER}
_SETTINGS = FACTORED | TRAINS_NORMS | {"adapter_options.tucker", "adapter_options.decompose"}
ADAPTERS = (AdapterKind("loha", "loha", _SETTINGS),)
