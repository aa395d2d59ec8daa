"""LyCORIS's tensors in files: by what ends of keys they are known, and how they are made ready for few digits."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from trainer_core.adapter_kinds import layer_kinds
from trainer_core.adapter_kinds.oft import clamped
from trainer_core.adapters.layers import Layer, LoraLayer, LycorisLayer, as_tensors
from trainer_core.errors import ExportError
from trainer_core.export.low_rank import balanced
from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def lycoris_ends() -> frozenset[str]:
    """Return the ends of LyCORIS's keys that plain LoRA does not have."""
    return frozenset(end for kind in layer_kinds().values() for end in kind.ends)


EXACT = ("alpha", "dora_scale", "lora_magnitude_vector", "rescale", "on_input", "oft_blocks", "w_norm", "b_norm")
"""Small tensors that stay in float32 in every file: they stand beside ones, or beside the base's own numbers, and fp16
would round away what was learned."""
_IA3 = ".weight"


def kind_of(ends: Mapping[str, Tensor]) -> str | None:
    """Return the kind of a layer with these ends of keys; None if LyCORIS has none."""
    for name, kind in layer_kinds().items():
        if any(mark in ends for mark in kind.marks) and (kind.is_stored_as is None or kind.is_stored_as(ends)):
            return name
    return None


def holds_lycoris(keys: Collection[str]) -> bool:
    """Say whether a file holds layers that only LyCORIS's reader and ours know."""
    marks = (*(f".{mark}" for kind in layer_kinds().values() for mark in kind.marks), ".dora_scale")
    return any(key.endswith(marks) for key in keys)


def is_exact(key: str) -> bool:
    """Say whether a tensor keeps its precision, whatever that of the file is."""
    return key.endswith(EXACT) or (key.endswith(_IA3) and not key.endswith(_FACTORS))


_FACTORS = (
    *(".lora_A.weight", ".lora_B.weight", ".lora_down.weight", ".lora_up.weight", ".lora_mid.weight"),
    *(".a1.weight", ".a2.weight", ".b1.weight", ".b2.weight"),
)


def lycoris_layer(
    roles: Mapping[str, Tensor], keys: Mapping[str, str], shape: tuple[int, ...], source: str
) -> LycorisLayer:
    """Return the layer of a module's tensors.

    Args:
        roles: tensors by what `reading.module_and_role` calls them.
        keys: their keys in the file.
        shape: of the module's weight.
        source: the file, named in errors.

    Raises:
        ExportError: a tensor is missing, or makes no update of this shape.
    """
    names = {"down": "lora_down.weight", "up": "lora_up.weight"}
    tensors = {names.get(role, role): tensor for role, tensor in roles.items()}
    kind = kind_of(tensors)
    assert kind is not None, "asked before"
    if "oft_blocks" in tensors:
        tensors.setdefault("alpha", torch.tensor(0.0))
        tensors = clamped({key: tensor.float() for key, tensor in tensors.items()})
    try:
        with torch.no_grad():
            fits = updated_shape(LycorisLayer(kind, tensors), shape) == shape
    except (KeyError, RuntimeError, IndexError):
        fits = False
    if not fits:
        shapes = ", ".join(f"{key} {list(roles[role].shape)}" for role, key in sorted(keys.items()))
        message = f"{source}: {shapes} make no {kind} for a weight {list(shape)}. "
        raise ExportError(message + "Give the base model that it was trained for.")
    return LycorisLayer(kind, tensors)


def updated_shape(layer: LycorisLayer, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the weight that a layer would change; only shapes are computed."""
    tensors = {
        key: torch.empty(tensor.shape, device="meta") if tensor.is_floating_point() else tensor
        for key, tensor in layer.tensors.items()
    }
    kind = layer_kinds()[layer.kind]
    if kind.updated_shape is not None:
        return kind.updated_shape(tensors, shape)
    assert kind.matrix is not None, "all other kinds are matrices"
    return tuple(kind.matrix(tensors, shape, None).shape)


def named_tensors(layer: Layer) -> dict[str, Tensor]:
    """Return a layer's tensors by the end of their keys, so that few digits lose little."""
    tensors = as_tensors(balanced(layer))[1] if isinstance(layer, LoraLayer) else balanced_layer(layer)
    return {key: tensor.to(torch.float32) if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}


def balanced_layer(layer: LycorisLayer) -> dict[str, Tensor]:
    """Move powers of two between factors until the smaller has digits enough; products stay as they are, exactly."""
    tensors = dict(layer.tensors)
    for small, large in layer_kinds()[layer.kind].balance:
        if small in tensors and large in tensors:
            one, other = _size(tensors[small]), _size(tensors[large])
            if 0 < one < _SMALL and other > 0 and math.isfinite(other):
                shift = 2.0 ** max(0, round(math.log2(other / one) / 2))
                tensors[small], tensors[large] = tensors[small] * shift, tensors[large] / shift
    return tensors


_SMALL = 2.0**-10
"""Root mean square below which half of fp16's digits could be lost."""


def _size(tensor: Tensor) -> float:
    return float(tensor.float().square().mean().sqrt())
