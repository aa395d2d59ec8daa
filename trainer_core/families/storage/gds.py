"""GPUDirect Storage on this machine: is it there, does it read what was written, and is it quicker?"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from trainer_core.families.storage import reading
from trainer_core.lazy import torch
from trainer_core.types import Finding

_FIELD = "gds"
_BYTES = 256 * 2**20


def gds_finding(folder: Path) -> Finding:
    """Try GPUDirect Storage.

    Args:
        folder: where a file of 256 MiB is written and read; it should be on the disk of the models.
    """
    if not torch.cuda.is_available():
        return Finding("info", _FIELD, "there is no GPU that torch can use: files are read into memory.", "")
    if problem := reading.gds_problem():
        message = f"GPUDirect Storage is not used: {problem}. Weights go to the GPU through pinned memory."
        return Finding("info", _FIELD, message, "Install it if loading takes long: docs.nvidia.com/gpudirect-storage.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="gds-") as made:
        return _tried(Path(made) / "test.safetensors", torch.device("cuda", torch.cuda.current_device()))


def _tried(file: Path, device: torch.device) -> Finding:
    from safetensors.torch import save_file

    written = torch.randint(0, 255, (_BYTES,), dtype=torch.uint8)
    save_file({"written": written}, file)
    try:
        past, rate = _read(file, device, gds=True)
    except Exception as error:  # noqa: BLE001 - the library raises plain ones
        message = f"GPUDirect Storage is installed but cannot read {file.parent} ({error})."
        fix = "Nothing fails: weights are read through the CPU. It needs a local NVMe disk with ext4 or xfs."
        return Finding("warning", _FIELD, message, fix)
    if not torch.equal(past.cpu(), written):
        message = f"GPUDirect Storage returned other bytes than were written to {file.parent}."
        return Finding("error", _FIELD, message, "Unload its driver (nvidia-fs), and report this to NVIDIA.")
    _, usual = _read(file, device, gds=False)
    return Finding("info", _FIELD, f"works: {rate:.1f} GB/s past the CPU, {usual:.1f} GB/s through it.", "")


def _read(file: Path, device: torch.device, gds: bool) -> tuple[torch.Tensor, float]:
    """Return the tensor, and GB/s."""
    begin = time.perf_counter()
    ((_, tensor),) = reading.read_in_chunks([file], device, gds=gds)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return tensor, _BYTES / 1e9 / (time.perf_counter() - begin)
