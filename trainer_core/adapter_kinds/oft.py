"""Diag-OFT and BOFT: the weight's output rows are rotated, in blocks, so that their angles stay as they are.

A rotation is R = (I + Q)(I - Q)^-1 of a skew-symmetric Q (Cayley). What is computed is R - I = 2 Q (I - Q)^-1 and its
effect: beside the identity, low precision would lose it. Sources: OFT, arXiv 2306.07280; BOFT, arXiv 2311.06243;
KohakuBlueleaf/LyCORIS, whose blocks and constraint these are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer_core.adapter_kinds.kind import TRAINS_NORMS, AdapterKind, AdapterTarget, Call, LayerKind, Shape, Tensors
from trainer_core.adapter_kinds.lokr import split
from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from trainer_core.config.groups import AdapterOptionsConfig


def start_diagonal(target: AdapterTarget, options: AdapterOptionsConfig, generator: Generator) -> dict[str, Tensor]:
    """Return one block of zeros for each run of outputs: no rotation."""
    side, number = split(target.shape[0], options.block_size or target.rank)
    return _with_scales({"oft_blocks": torch.zeros(number, side, side)}, target, options)


def butterfly_blocks(outputs: int, side: int) -> tuple[int, int] | None:
    """Return (side of a block, number of blocks) of a butterfly; None if the outputs cannot be cut so.

    The number of blocks must be a power of two, and the side even: the largest such side up to `side`.
    """
    sides = [one for one in range(2, side + 1, 2) if outputs % one == 0 and (outputs // one).bit_count() == 1]
    return (sides[-1], outputs // sides[-1]) if sides else None


def start_butterfly(target: AdapterTarget, options: AdapterOptionsConfig, generator: Generator) -> dict[str, Tensor]:
    """Return log2(blocks) + 1 stages of blocks of zeros."""
    found = butterfly_blocks(target.shape[0], options.block_size or target.rank)
    assert found is not None, "targets that no butterfly fits are refused before"
    side, number = found
    stages = (number - 1).bit_count() + 1
    return _with_scales({"oft_blocks": torch.zeros(stages, number, side, side)}, target, options)


def turn(tensors: Tensors) -> Tensor:
    """Return R - I of every block; the constraint limits the norm of all Q of the layer together."""
    blocks = clamped(tensors)["oft_blocks"]
    skew = blocks - blocks.transpose(-1, -2)
    identity = torch.eye(blocks.shape[-1], device=blocks.device, dtype=blocks.dtype)
    return 2 * torch.linalg.solve(identity - skew, skew)


def clamped(tensors: Tensors) -> dict[str, Tensor]:
    """Return the layer with its constraint put into the blocks, and none left: readers differ in how they take one."""
    blocks = tensors["oft_blocks"]
    rows = blocks.shape[-3] * blocks.shape[-1]
    limit = tensors["alpha"] * rows
    norm = (blocks - blocks.transpose(-1, -2)).norm() + 1e-8
    # no branch on a number of the device: it would wait for it
    factor = torch.where((limit > 0) & (norm > limit), limit / norm, torch.ones_like(norm))
    return {**tensors, "oft_blocks": blocks * factor, "alpha": torch.zeros_like(tensors["alpha"])}


def diagonal(tensors: Tensors, call: Call) -> Tensor:
    """Return what the rotation of the outputs adds to them."""
    turned = turn(tensors)
    z = _channels_last(call).to(turned.dtype)
    parts = z.unflatten(-1, (turned.shape[0], turned.shape[1]))
    change = torch.einsum("knm,...kn->...km", turned, parts).flatten(-2)
    return _back(_scaled(tensors, z, change), call)


def butterfly(tensors: Tensors, call: Call) -> Tensor:
    """Return what all stages together add to the outputs; stage i mixes outputs that are 2^i half blocks apart."""
    turned = turn(tensors)
    z = _channels_last(call).to(turned.dtype)
    side, change = turned.shape[-1], torch.zeros_like(z)
    for number, stage in enumerate(turned):
        apart = 2**number * (side // 2)
        # pairs of half blocks come to lie side by side, are turned, and go back
        mixed = (z + change).unflatten(-1, (-1, 2, apart)).transpose(-1, -2).flatten(-3).unflatten(-1, (-1, side))
        mixed = torch.einsum("bij,...bj->...bi", stage, mixed).flatten(-2)
        change = change + mixed.unflatten(-1, (-1, apart, 2)).transpose(-1, -2).flatten(-3)
    return _back(_scaled(tensors, z, change), call)


def _with_scales(tensors: dict[str, Tensor], target: AdapterTarget, options: AdapterOptionsConfig) -> dict[str, Tensor]:
    tensors["alpha"] = torch.tensor(options.constraint)
    if options.rescaled:
        tensors["rescale"] = torch.ones(target.shape[0], *[1] * (len(target.shape) - 1))
    return tensors


def _scaled(tensors: Tensors, z: Tensor, change: Tensor) -> Tensor:
    if "rescale" not in tensors:
        return change
    factor = tensors["rescale"].flatten()
    return factor * change + (factor - 1) * z


def _channels_last(call: Call) -> Tensor:
    return call.z.movedim(1, -1) if call.strides else call.z


def _back(change: Tensor, call: Call) -> Tensor:
    return change.movedim(-1, 1) if call.strides else change


def updated_shape(tensors: Tensors, shape: Shape) -> Shape:
    """Return `shape` if the blocks of each stage have as many rows as the weight has outputs."""
    blocks = tensors["oft_blocks"]
    stages = blocks.shape[0] if blocks.ndim == 4 else 1
    return shape if blocks[..., 0].numel() // stages == shape[0] else ()


LAYERS = {
    "diag-oft": LayerKind(
        start=start_diagonal,
        update=diagonal,
        marks=("oft_blocks",),
        ends=("oft_blocks", "rescale"),
        is_stored_as=lambda tensors: tensors["oft_blocks"].ndim == 3,
        updated_shape=updated_shape,
        not_in_comfyui=frozenset({"rescale"}),
    ),
    "boft": LayerKind(
        start=start_butterfly,
        update=butterfly,
        marks=("oft_blocks",),
        ends=("oft_blocks", "rescale"),
        is_stored_as=lambda tensors: tensors["oft_blocks"].ndim == 4,
        updated_shape=updated_shape,
        outputs_fit=lambda outputs, side: butterfly_blocks(outputs, side) is not None,
    ),
}
_SETTINGS = TRAINS_NORMS | {f"adapter_options.{name}" for name in ("block_size", "constraint", "rescaled")}
ADAPTERS = (
    AdapterKind("diag-oft", "diag-oft", _SETTINGS, scaled=False, two_matrices=False, comfyui_loads_scales=False),
    AdapterKind("boft", "boft", _SETTINGS, scaled=False, two_matrices=False),
)
