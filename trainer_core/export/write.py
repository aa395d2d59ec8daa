"""Write a LoRA file of any format, and check one that we wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.errors import NonFiniteError
from trainer_core.export.formats import formats
from trainer_core.export.lycoris_file import is_exact
from trainer_core.export.safetensors_file import body_sha256, file_sha256, read_metadata, tensors_sha256, with_metadata
from trainer_core.hardware.placement import torch_dtype

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.adapters.layers import Layer
    from trainer_core.export.module_names import Modules
    from trainer_core.families.spec import PrecisionName

WEIGHTS = "lora_assets.weights_sha256"
BARE = {"format": "pt"}
"""What is left of the metadata where none are wanted: readers ask for it."""


@dataclass(frozen=True)
class Lora:
    """What is written: the layers in float32, and what they belong to."""

    layers: Mapping[str, Layer]
    """By `<component>.<module>`."""
    modules: Modules


def exported_tensors(lora: Lora, format_name: str, dtype: PrecisionName) -> dict[str, Tensor]:
    """Return what a file of some format holds. Alphas stay in float32, as fp16 would round 1e-3 of one away.

    So do other small tensors (`lycoris_file.EXACT`).

    Raises:
        NonFiniteError: a weight is NaN, infinite, or too large for `dtype`.
        ExportError: a module has no name in this format.
    """
    tensors = {
        key: (tensor if is_exact(key) else tensor.to(torch_dtype(dtype))).contiguous()
        for key, tensor in formats()[format_name].tensors(lora.layers, lora.modules).items()
    }
    if bad := [key for key, tensor in tensors.items() if not tensor.isfinite().all()]:
        message = f"{bad[0]} and {len(bad) - 1} more hold numbers that do not fit into {dtype}. "
        raise NonFiniteError(message + "Set export.dtype to fp32 or bf16, or lower optimizer.lr.", ())
    return tensors


def write_lora(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> str:
    """Write a LoRA file; return the SHA-256 of its weights, which its metadata hold too.

    Args:
        path: where; the caller publishes it atomically.
        tensors: what `exported_tensors` gave.
        metadata: strings to put beside the weights, without hashes of them; None for a file of tensors alone.
    """
    from safetensors.torch import save

    data, weights = save(dict(tensors)), tensors_sha256(tensors)
    path.write_bytes(with_metadata(data, BARE if metadata is None else {**metadata, **BARE, **hashes(data, weights)}))
    return weights


def hashes(data: bytes, weights: str) -> dict[str, str]:
    """Return the metadata that are known only when the tensors are final.

    `sshs_model_hash` is by what A1111 knows a LoRA; modelspec writes the same number in its own way.
    """
    body = body_sha256(data)
    return {"sshs_model_hash": body, "modelspec.hash_sha256": f"0x{body}", WEIGHTS: weights}


def check_lora(path: Path) -> tuple[str, str]:
    """Return (weights SHA-256 in the metadata, weights SHA-256 found) of a LoRA file.

    Raises:
        ValueError: it is not a LoRA file of ours.
    """
    stated = read_metadata(path).get(WEIGHTS)
    if stated is None:
        raise ValueError(f"{path}: has no {WEIGHTS} in its metadata")
    return stated, file_sha256(path)
