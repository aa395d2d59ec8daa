"""Weights of diffusers models straight to a GPU, by fastsafetensors.

Where GPUDirect Storage works they go from disk past the CPU, elsewhere through pinned buffers. On a CPU this is slower
than safetensors' memory map, so nothing there uses it but the tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

GDS_DEVICE = Path("/dev/nvidia-fs0")
"""What the driver of GPUDirect Storage makes."""


def has_gds(device: torch.device) -> bool:
    """Say whether files can be read into `device` past the CPU."""
    from fastsafetensors import cpp

    return device.type == "cuda" and GDS_DEVICE.exists() and bool(cpp.is_cufile_found())


def read(files: Sequence[Path], device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Yield the tensors of each .safetensors file by name, on `device`.

    Those of a file share one block of memory until they are converted or copied.
    """
    from fastsafetensors import SafeTensorsFileLoader

    for file in files:
        with closing(SafeTensorsFileLoader(None, device=str(device), nogds=not has_gds(device))) as loader:
            loader.add_filenames({0: [str(file)]})
            with closing(loader.copy_files_to_device()) as held:
                yield {name: held.get_tensor(name) for name in held.key_to_rank_lidx}


def load(
    cls: Any, folder: Path, files: Sequence[Path], dtype: torch.dtype, device: torch.device
) -> tuple[Any, set[str]]:
    """Build a diffusers model without memory and give it the weights of `files`.

    Args:
        cls: the model's class.
        folder: where its config is.
        files: its weights, one file or all shards.
        dtype: of the weights, except where the class keeps float32.
        device: where the weights go.

    Returns:
        The model, and the names of weights that the files lack.
    """
    from accelerate import init_empty_weights

    with init_empty_weights():
        model = cls.from_config(cls.load_config(str(folder)))
    kept = tuple(cls._keep_in_fp32_modules or ())
    missing = set(model.state_dict())
    for tensors in read(files, device):
        converted = {name: _as(tensor, name, dtype, kept) for name, tensor in tensors.items()}
        model.load_state_dict(converted, strict=False, assign=True)
        missing -= converted.keys()
    return (model if missing else model.to(device)), missing


def _as(tensor: Tensor, name: str, dtype: torch.dtype, kept: tuple[str, ...]) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.float32 if any(part in name.split(".") for part in kept) else dtype)
