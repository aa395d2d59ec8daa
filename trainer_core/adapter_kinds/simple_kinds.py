"""(IA)^3, whole differences, and norms: updates whose tensors are as large as what they change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer_core.adapter_kinds.kind import TRAINS_NORMS, AdapterKind, AdapterTarget, Call, LayerKind, Shape, Tensors
from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from trainer_core.config.groups import AdapterOptionsConfig


def start_ia3(target: AdapterTarget, options: AdapterOptionsConfig, generator: Generator) -> dict[str, Tensor]:
    """Return zeros, one for each output (arXiv 2205.05638 scales by 1 + them)."""
    out, _, *kernel = target.shape
    shape = (1, out, *[1] * len(kernel)) if kernel else (out,)
    return {"weight": torch.zeros(shape), "on_input": torch.tensor(0)}


def ia3(tensors: Tensors, call: Call) -> Tensor:
    """Return what scaling each output adds; the bias is not scaled, as in merging."""
    return call.z * _factor(tensors, call)


def ia3_on_input(tensors: Tensors, call: Call) -> Tensor:
    """Return what scaling each input adds, in files of others."""
    weight = call.weight()
    return call.apply((call.x * _factor(tensors, call)).to(weight.dtype), weight)


def _factor(tensors: Tensors, call: Call) -> Tensor:
    factor = tensors["weight"].flatten()
    return factor[:, None, None] if call.strides else factor


def start_full(target: AdapterTarget, options: AdapterOptionsConfig, generator: Generator) -> dict[str, Tensor]:
    """Return a difference of zero, as large as the weight; biases stay as they are."""
    return {"diff": torch.zeros(target.shape)}


def difference(tensors: Tensors, shape: Shape, keep: Tensor | None) -> Tensor:
    """Return the difference itself."""
    return tensors["diff"].reshape(shape)


def start_norm(target: AdapterTarget, options: AdapterOptionsConfig, generator: Generator) -> dict[str, Tensor]:
    """Return zeros to be added to a norm's weight; the one for its bias is added where there is one."""
    return {"w_norm": torch.zeros(target.shape)}


def ia3_shape(tensors: Tensors, shape: Shape) -> Shape:
    """Return `shape` if there is a factor for each output, or for each input where those are scaled."""
    # LyCORIS writes `on_input` as a number, which a tensor without values has not: its owner passes the real one
    side = 1 if bool(tensors["on_input"]) else 0
    return shape if tensors["weight"].numel() == shape[side] else ()


NORM = "norm"
"""Layers of norms, beside those of every kind: `trainer_core.adapters.adapter_module` applies them."""
_IA3_FIXED = frozenset({"on_input"})
LAYERS = {
    "ia3": LayerKind(
        start=start_ia3,
        update=ia3,
        fixed=_IA3_FIXED,
        marks=("on_input",),
        ends=("weight", "on_input"),
        updated_shape=ia3_shape,
        runs_as=lambda tensors: "ia3-on-input" if bool(tensors["on_input"]) else "ia3",
    ),
    "ia3-on-input": LayerKind(start=start_ia3, update=ia3_on_input, fixed=_IA3_FIXED),
    "full": LayerKind(start=start_full, matrix=difference, fixed=frozenset(), marks=("diff",), ends=("diff",)),
    NORM: LayerKind(
        start=start_norm,
        fixed=frozenset(),
        marks=("w_norm",),
        ends=("w_norm", "b_norm"),
        updated_shape=lambda tensors, shape: tuple(tensors["w_norm"].shape),
    ),
}
ADAPTERS = (
    AdapterKind(
        "ia3",
        "ia3",
        TRAINS_NORMS,
        scaled=False,
        has_rank=False,
        two_matrices=False,
        comfyui_loads=False,
        lycoris_loads=False,
    ),
    AdapterKind(
        "full",
        "full",
        TRAINS_NORMS | {"adapter.dropout"},
        scaled=False,
        has_rank=False,
        two_matrices=False,
        trains_every_weight=True,
    ),
)
