"""(IA)^3, whole differences, and norms: updates whose tensors are as large as what they change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer_core.adapters.kinds.base import Call, Kind, Place, Shape, Tensors

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from trainer_core.config.groups import AdapterOptionsConfig


def start_ia3(place: Place, options: AdapterOptionsConfig, generator: Generator) -> dict[str, Tensor]:
    """Return zeros, one for each output (arXiv 2205.05638 scales by 1 + them)."""
    import torch

    out, _, *kernel = place.shape
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


def start_full(place: Place, options: AdapterOptionsConfig, generator: Generator) -> dict[str, Tensor]:
    """Return a difference of zero, as large as the weight; biases stay as they are."""
    import torch

    return {"diff": torch.zeros(place.shape)}


def difference(tensors: Tensors, shape: Shape, keep: Tensor | None) -> Tensor:
    """Return the difference itself."""
    return tensors["diff"].reshape(shape)


def start_norm(place: Place, options: AdapterOptionsConfig, generator: Generator) -> dict[str, Tensor]:
    """Return zeros to be added to a norm's weight; the one for its bias is added where there is one."""
    import torch

    return {"w_norm": torch.zeros(place.shape)}


IA3_ON_INPUT = Kind(start=start_ia3, update=ia3_on_input, fixed=frozenset({"on_input"}))
IA3 = Kind(start=start_ia3, update=ia3, fixed=frozenset({"on_input"}))
FULL = Kind(start=start_full, matrix=difference, fixed=frozenset())
NORM = Kind(start=start_norm, fixed=frozenset())
"""Its module has no weight matrix: `trainer_core.adapters.adapter_module` applies it."""
