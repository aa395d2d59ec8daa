"""The LoRA file that diffusers' `load_lora_weights` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.adapters import ADAPTERS
from trainer_core.config.groups import AdapterConfig
from trainer_core.errors import NonFiniteError
from trainer_core.export.safetensors_file import serialize, tensors_sha256
from trainer_core.hardware.placement import torch_dtype

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.families.base import PrecisionName


def write_lora(  # noqa: PLR0913 - what a LoRA file is made of
    path: Path,
    adapter: Mapping[str, Tensor],
    config: AdapterConfig,
    prefix: str,
    dtype: PrecisionName,
    metadata: Mapping[str, str],
) -> str:
    """Write an adapter's state as a LoRA file; return the SHA-256 of its weights, which its metadata holds too.

    Args:
        path: where; the caller publishes it atomically.
        adapter: what `adapters.<type>.state` returned, float32.
        config: rank and alpha; alpha / rank is folded into lora_B.
        prefix: `unet` or `transformer`.
        dtype: precision in the file.
        metadata: strings to put beside the weights.

    Raises:
        NonFiniteError: a weight is NaN, infinite, or too large for `dtype`.
    """
    exported = ADAPTERS[config.type].exported(adapter, config, prefix)
    tensors = {name: tensor.to(torch_dtype(dtype)).contiguous() for name, tensor in exported.items()}
    if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        message = f"{bad[0]} and {len(bad) - 1} more hold numbers that do not fit into {dtype}. "
        raise NonFiniteError(message + "Set export.dtype to fp32 or bf16, or lower optimizer.lr.", ())
    weights = tensors_sha256(tensors)
    path.write_bytes(serialize(tensors, {**metadata, "format": "pt", "lora_assets.weights_sha256": weights}))
    return weights


def check_lora(path: Path) -> tuple[str, str]:
    """Return (weights SHA-256 that the metadata tells, weights SHA-256 found) of a LoRA file.

    Raises:
        ValueError: it is not a LoRA file of ours.
    """
    from safetensors.torch import load_file

    from trainer_core.export.safetensors_file import read_metadata

    told = read_metadata(path).get("lora_assets.weights_sha256")
    if told is None:
        raise ValueError(f"{path}: has no lora_assets.weights_sha256 in its metadata")
    return told, tensors_sha256(load_file(path))
