"""4-bit NormalFloat by bitsandbytes: 16 levels between the quantiles of a normal distribution (arXiv 2305.14314).

64 weights share a scale; the scales, less their mean, are 8-bit numbers, 256 of which share a scale.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from trainer_core.families.storage.schemes import NF4_BLOCK, NF4_GROUP


def encode(weight: Tensor) -> dict[str, Tensor]:
    """Return `packed` uint8 [out * in / 2, 1], `scale` uint8, `scale_of_scales` float32 and `mean_scale` float32 []."""
    _ops()
    from bitsandbytes.functional import quantize_4bit

    made: Any = quantize_4bit(
        weight.contiguous(), blocksize=NF4_BLOCK, compress_statistics=True, quant_type="nf4", quant_storage=torch.uint8
    )
    packed, state = made
    nested = state.state2
    return {
        "packed": packed,
        "scale": state.absmax,
        "scale_of_scales": nested.absmax,
        "mean_scale": state.offset,
    }


def decode(parts: Mapping[str, Tensor], shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return the weight matrix [out, in] in `dtype`."""
    ops = _ops()
    code = _code(parts["scale"].device)
    scale = ops.dequantize_blockwise(parts["scale"], parts["scale_of_scales"], code, NF4_GROUP, torch.float32)
    return ops.dequantize_4bit(parts["packed"], scale + parts["mean_scale"], NF4_BLOCK, "nf4", torch.Size(shape), dtype)


@cache
def _ops() -> Any:
    # it warns that a kernel, which is not used here, could be downloaded
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    importlib.import_module("bitsandbytes")  # registers the operators

    return torch.ops.bitsandbytes


@cache
def _code(device: torch.device) -> Tensor:
    from bitsandbytes.functional import create_dynamic_map

    return create_dynamic_map().to(device)
