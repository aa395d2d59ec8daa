"""What a layer adds to a module's output, with DoRA's decomposition where a layer has magnitudes.

DoRA, over any update D that is a matrix: W' = m * (W + D) / |W + D| (arXiv 2402.09353).

The norm is of each output's row, as in PEFT and in LyCORIS's `wd_on_out`, and is taken as a constant in the backward
pass: the paper's section 4.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer_core.adapter_kinds.kind import Call, LayerKind, Tensors, matrix_of
from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def magnitudes(weight: Tensor) -> Tensor:
    """Return the norm of each output's row, [out, 1, ...] with as many axes as the weight."""
    return weight.detach().flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.ndim - 1))


def output_delta(kind: LayerKind, tensors: Tensors, call: Call) -> Tensor:
    """Return what a layer adds to `call.z`, in the layer's precision."""
    if "dora_scale" in tensors:
        return _decomposed(kind, tensors, call)
    if kind.update is not None:
        return kind.update(tensors, call)
    return call.apply(call.x, matrix_of(kind, tensors, call))


def _decomposed(kind: LayerKind, tensors: Tensors, call: Call) -> Tensor:
    """Return what the changed weight adds to `call.z`."""
    weight, matrix = call.weight(), matrix_of(kind, tensors, call)
    with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
        norm = magnitudes(weight.to(matrix.dtype) + matrix) + torch.finfo(matrix.dtype).eps
    factor = (tensors["dora_scale"] / norm).flatten()
    if call.strides:
        factor = factor[:, None, None]
    # the difference of the factor from one first: it is small, and low precision would lose it beside the one
    return (factor - 1) * call.z + factor * call.apply(call.x, matrix)
