"""Turn a profile and the settings into torch objects: device, dtypes, memory format, attention. Imports torch."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainer_core.errors import ConfigError
from trainer_core.hardware.profiles import Attention, HardwareProfile, PrecisionName
from trainer_core.lazy import torch
from trainer_core.types import Finding

if TYPE_CHECKING:
    from torch import nn

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3). By default it gives every large block back to the kernel when it is freed, and the
page faults of getting it again cost a VAE a quarter of its time (docs/performance.md)."""


def torch_dtype(precision: PrecisionName) -> torch.dtype:
    """Return the torch dtype of a precision by name."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def torch_device(profile: HardwareProfile) -> torch.device:
    """Return the profile's device.

    Raises:
        ConfigError: a GPU is there but this torch cannot use it.
    """
    if profile.device == "cuda" and not torch.cuda.is_available():
        message = f"profile {profile.name} needs CUDA, but torch {torch.__version__} sees no usable GPU."
        raise ConfigError([Finding("error", "hardware.profile", message, "Install the CUDA build, or set it to cpu.")])
    return torch.device(profile.device)


def has_own_memory(device: torch.device) -> bool:
    """Say whether a device has memory of its own, so that something can be kept off it: not a CPU, not a DGX Spark."""
    return device.type == "cuda" and not torch.cuda.get_device_properties(device).is_integrated


def move_to_device(module: nn.Module, profile: HardwareProfile) -> nn.Module:
    """Move a module to the profile's device and memory format."""
    ranks = {parameter.ndim for parameter in module.parameters()}
    # Convolutions over videos have five axes, and torch refuses the whole module for one of them.
    if profile.channels_last and 4 in ranks and 5 not in ranks:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module.to(torch_device(profile))


def use_attention(denoiser: Any, attention: Attention) -> None:
    """Choose the attention of a diffusers denoiser; a no-op where the class offers no choice.

    UNets take an attention processor, transformers an attention backend (diffusers' own two mechanisms).
    """
    if attention != "math":
        return
    if hasattr(denoiser, "set_attn_processor") and hasattr(denoiser, "down_blocks"):
        from diffusers.models.attention_processor import AttnProcessor

        denoiser.set_attn_processor(AttnProcessor())
    elif hasattr(denoiser, "set_attention_backend"):
        from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend

        # The model's own choice also becomes that of all models of the process; the block takes that back.
        with attention_backend(AttentionBackendName.NATIVE):
            denoiser.set_attention_backend("_native_math")


@contextmanager
def torch_work(profile: HardwareProfile, threads: int) -> Generator[None]:
    """Surround a stage's work with torch: set threads and allocator, and give memory back when it ends.

    Args:
        profile: on a CPU, freed blocks stay with the process until the end, as the next step asks for the same ones.
        threads: CPU threads of torch's operators; 0 leaves torch's own choice.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    libc = _glibc() if profile.device == "cpu" else None
    if libc is not None:
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
    # What lives before the work is not looked at when it ends: a collection over all of torch takes 0.3 s.
    gc.freeze()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        gc.collect()
        gc.unfreeze()
        if libc is not None:
            libc.malloc_trim(0)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _glibc() -> ctypes.CDLL | None:
    """Return the C library where it is glibc; others have neither these calls nor the cost that they avoid."""
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def resident_memory_mib() -> float:
    """Memory in use now: allocated on the GPU when one is used, else resident."""
    if torch.cuda.is_available() and torch.cuda.memory_allocated():
        return torch.cuda.memory_allocated() / 2**20
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
