"""Nested state as tensors and JSON, and back again bit for bit: what safetensors and state.json hold, never pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from trainer_core.types import JSON

_TENSOR, _TUPLE, _MAP, _DTYPE = "$tensor", "$tuple", "$map", "$dtype"
"""Keys that mark what JSON cannot express."""


def pack(value: Any) -> tuple[dict[str, Tensor], JSON]:
    """Split nested dicts, lists and tuples into their tensors by path (`state/0/exp_avg`, on the CPU) and JSON.

    Raises:
        TypeError: something is neither a tensor nor a value that JSON can hold; names its path.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _pack(value, "", tensors)


def unpack(tensors: Mapping[str, Tensor], packed: JSON) -> Any:
    """Return what `pack` was given; its tensors own their memory."""
    if isinstance(packed, list):
        return [unpack(tensors, item) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if _TENSOR in packed:
        return tensors[packed[_TENSOR]].clone(memory_format=torch.contiguous_format)
    if _TUPLE in packed:
        return tuple(unpack(tensors, item) for item in packed[_TUPLE])
    if _MAP in packed:
        return {key: unpack(tensors, item) for key, item in packed[_MAP]}
    if _DTYPE in packed:
        return getattr(torch, packed[_DTYPE])
    return {key: unpack(tensors, item) for key, item in packed.items()}


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> JSON:
    if isinstance(value, Tensor):
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {_TENSOR: path}
    if isinstance(value, Mapping):
        return _pack_map(cast(Mapping[Any, Any], value), path, tensors)
    if isinstance(value, list | tuple):
        packed = [_pack(item, f"{path}/{number}", tensors) for number, item in enumerate(cast(list[Any], value))]
        return {_TUPLE: packed} if isinstance(value, tuple) else packed
    if isinstance(value, torch.dtype):
        return {_DTYPE: str(value).removeprefix("torch.")}
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{path}: a {type(value).__name__} cannot be saved")


def _pack_map(value: Mapping[Any, Any], path: str, tensors: dict[str, Tensor]) -> JSON:
    packed = [(key, _pack(item, f"{path}/{key}" if path else str(key), tensors)) for key, item in value.items()]
    if all(isinstance(key, str) and not key.startswith("$") for key in value):
        return dict(packed)
    return {_MAP: [list(pair) for pair in packed]}
