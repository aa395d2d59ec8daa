"""The tensors of .safetensors files one by one, on the device that they are for.

To a GPU fastsafetensors reads them, in chunks and several at once: past the CPU where GPUDirect Storage works,
elsewhere through pinned buffers. On a CPU they are views of the mapped file, which is quicker there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence, Set
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

GDS_DEVICE = Path("/dev/nvidia-fs0")
"""What the driver of GPUDirect Storage makes."""
CHUNK = 512 * 2**20
"""Bytes that are read at once; two chunks are on the device, one being read and one being taken."""


def has_gds(device: torch.device) -> bool:
    """Say whether files can be read into `device` past the CPU."""
    return device.type == "cuda" and gds_problem() is None


def gds_problem() -> str | None:
    """Say why GPUDirect Storage cannot be used on this machine; None if nothing is missing."""
    from fastsafetensors import cpp

    if not GDS_DEVICE.exists():
        return f"its driver is not loaded (there is no {GDS_DEVICE}: the kernel module nvidia-fs)"
    return None if cpp.is_cufile_found() else "NVIDIA's library libcufile is not installed"


def read(files: Sequence[Path], device: torch.device, names: Set[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor of all files.

    Args:
        files: .safetensors files.
        device: where the tensors come; on a CPU they are views of the mapped files.
        names: those that are wanted; None for all.
    """
    if device.type == "cpu":
        yield from _mapped(files, names)
    elif not has_gds(device):
        yield from read_in_chunks(files, device, gds=False, names=names)
    else:
        yield from _past_the_cpu(files, device, names)


def _past_the_cpu(files: Sequence[Path], device: torch.device, names: Set[str] | None) -> Iterator[tuple[str, Tensor]]:
    given: set[str] = set()
    try:
        for name, tensor in read_in_chunks(files, device, gds=True, names=names):
            given.add(name)
            yield name, tensor
        return
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises plain ones
        log.warning("GPUDirect Storage could not read %s (%s): it is read through the CPU instead.", files[0], error)
    yield from read_in_chunks(files, device, gds=False, names=names, without=given)


def read_in_chunks(
    files: Sequence[Path],
    device: torch.device,
    gds: bool,
    names: Set[str] | None = None,
    without: Set[str] = frozenset(),
) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor of all files by fastsafetensors.

    Args:
        files: .safetensors files.
        device: where the tensors come, each in memory of its own.
        gds: whether they go past the CPU.
        names: those that are wanted; None for all.
        without: those that are not.
    """
    from fastsafetensors import ParallelLoader

    def wanted(name: str) -> bool:
        return (names is None or name in names) and name not in without

    loader = ParallelLoader(
        None,
        [str(file) for file in files],
        device=str(device),
        use_tqdm_on_load=False,
        nogds=not gds,
        max_batch_bytes=CHUNK,
        accumulate_resident=False,
        tensor_filter=wanted,
    )
    with closing(loader), closing(loader.iterate_weights()) as tensors:
        yield from tensors


def _mapped(files: Sequence[Path], names: Set[str] | None) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    for file in files:
        with safe_open(file, framework="pt", device="cpu") as opened:  # type: ignore[no-untyped-call]
            handle: Any = opened
            for name in handle.keys() if names is None else sorted(names):
                yield name, handle.get_tensor(name)
