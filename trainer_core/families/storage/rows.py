"""One scale for each row of a matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def weight_scale(weight: Tensor, largest: float) -> Tensor:
    """Return float32 [out]: what each row is divided by, so that its largest number becomes `largest`.

    Scales are numbers that bf16 holds too, so that a weight is the same number in bf16 and in fp32, up to bf16's own
    rounding. Rows of zeros get a small number, never zero.
    """
    return row_scale(weight, largest).bfloat16().float()


def row_scale(matrix: Tensor, largest: float) -> Tensor:
    """Return float32 [rows], as `weight_scale`, not rounded."""
    most = matrix.abs().amax(dim=1).float()
    return (most / largest).clamp(min=1e-30)


def scaled(numbers: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return numbers [out, in] times their rows' scales, in `dtype`."""
    # in fp16 a scale of small weights would be a subnormal number; 8-bit numbers and scales are exact in bf16
    wide = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    return (numbers.to(wide) * scale.to(wide)[:, None]).to(dtype)
