"""LoRA's product of two small matrices, on linear layers and convolutions: LoCon, DoRA and DyLoRA.

Sources: arXiv 2106.09685; LoCon and its Tucker form, KohakuBlueleaf/LyCORIS; DyLoRA, arXiv 2210.07558, in the form of
kohya-ss/sd-scripts' `networks/dylora.py`.
"""

from __future__ import annotations

import math
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

DOWN, UP, MID = "lora_down.weight", "lora_up.weight", "lora_mid.weight"


def start(target: AdapterTarget, options: AdapterOptionsConfig, generator: Generator) -> dict[str, Tensor]:
    """Return Kaiming-uniform down matrices and an up matrix of zeros."""
    out, into, *kernel = target.shape
    ones = [1] * len(kernel)
    if options.tucker and any(side > 1 for side in kernel):
        middle = {
            DOWN: kaiming((target.rank, into, *ones), generator),
            MID: kaiming((target.rank, target.rank, *kernel), generator),
        }
    else:
        middle = {DOWN: kaiming((target.rank, into, *kernel), generator)}
    return middle | {UP: torch.zeros(out, target.rank, *ones), "alpha": torch.tensor(target.alpha)}


def matrix(tensors: Tensors, shape: Shape, keep: Tensor | None) -> Tensor:
    """Return alpha / rank * up @ down, or with the middle of a Tucker decomposition between them."""
    down, up = tensors[DOWN], tensors[UP].flatten(1)
    up = up * scale(tensors, up.shape[1])
    if keep is not None:
        up = up * keep
    if MID in tensors:
        return torch.einsum("or,rs...,si->oi...", up, tensors[MID], down.flatten(1))
    return (up @ down.flatten(1)).reshape(shape)


def update(tensors: Tensors, call: Call) -> Tensor:
    """Return the same applied to the input, one factor after the other: the whole matrix is never made."""
    down, up = tensors[DOWN], tensors[UP]
    factor = scale(tensors, up.shape[1])
    if down.ndim == 2:
        middle = functional.linear(call.x, down)
        return functional.linear(middle if call.keep is None else middle * call.keep, up) * factor
    strides: dict[str, Any] = dict(call.strides)
    if MID in tensors:
        middle = functional.conv2d(functional.conv2d(call.x, down), tensors[MID], **strides)
    else:
        middle = functional.conv2d(call.x, down, **strides)
    middle = middle if call.keep is None else middle * call.keep[:, None, None]
    return functional.conv2d(middle, up) * factor


def truncated(tensors: Tensors, block: int, draw: int) -> dict[str, Tensor]:
    """Return DyLoRA's layer up to and with block `draw`, which alone gets gradients.

    Its output is scaled by sqrt(rank / ranks in use), so that all truncations are of one size.

    Args:
        tensors: the whole layer.
        block: ranks that are trained together.
        draw: number of the block, from 0.
    """
    down, up = tensors[DOWN], tensors[UP]
    first, end, rank = draw * block, (draw + 1) * block, up.shape[1]
    down = torch.cat([down[:first].detach(), down[first:end]])
    up = torch.cat([up[:, :first].detach(), up[:, first:end]], dim=1)
    # `scale` divides by the ranks in use, the whole layer by all: undone here
    alpha = tensors["alpha"] * (end / rank) * math.sqrt(rank / end)
    return {DOWN: down, UP: up, "alpha": alpha}


LAYER = LayerKind(
    start=start,
    matrix=matrix,
    update=update,
    scaled=((UP,),),
    balance=((UP, DOWN),),
    rank=lambda tensors: int(tensors[UP].shape[1]),
    marks=(MID,),
    ends=(MID, "dora_scale"),
)
FILE_KIND = "locon"
"""What files call these layers, LoRA's, DoRA's and DyLoRA's too."""
LAYERS = {FILE_KIND: LAYER}
_LOCON = FACTORED | TRAINS_NORMS | {"adapter_options.tucker", "adapter_options.decompose"}
_DYLORA = TRAINS_NORMS | {"adapter.dropout", "adapter_options.rslora", "adapter_options.block_size"}
ADAPTERS = (
    AdapterKind("lora", "locon", FACTORED, product=True, with_peft=True, kohya_algo=None),
    AdapterKind("locon", "locon", _LOCON, product=True, adapts_convolutions=True),
    AdapterKind("dylora", "locon", _DYLORA, product=True, nested_ranks=True, kohya_block_size="unit"),
    AdapterKind(
        "dora",
        "locon",
        FACTORED | TRAINS_NORMS,
        product=True,
        magnitudes=True,
        reads_weight=True,
        kohya_algo="lora",
    ),
)
