"""8-bit integers, one float32 scale for each row of the weight matrix; decision 14: why not bitsandbytes' int8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainer_core.families.storage.rows import row_scale, scaled, weight_scale

LARGEST = 127.0


def encode(weight: Tensor) -> dict[str, Tensor]:
    """Return `packed` int8 [out, in] and `scale` float32 [out]."""
    scale = weight_scale(weight, LARGEST)
    return {"packed": _rounded(weight, scale), "scale": scale}


def decode(parts: Mapping[str, Tensor], shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return the weight matrix [out, in] in `dtype`."""
    return scaled(parts["packed"], parts["scale"], dtype)


def multiply(x: Tensor, parts: Mapping[str, Tensor]) -> Tensor:
    """Return x @ weight.T [rows, out] from 8-bit numbers; x [rows, in] is rounded to int8 with one scale a row."""
    scale = row_scale(x, LARGEST)
    int_mm: Any = torch._int_mm  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    multiplied = int_mm(_rounded(x, scale), parts["packed"].t())
    return (multiplied.float() * scale[:, None] * parts["scale"]).to(x.dtype)


def fits(rows: int, shape: tuple[int, int]) -> bool:
    """Say whether the kernels take this many rows of input and this weight matrix: sides in multiples of 8."""
    return rows > 16 and all(side % 8 == 0 for side in shape)


def _rounded(matrix: Tensor, scale: Tensor) -> Tensor:
    return (matrix.float() / scale[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8)
