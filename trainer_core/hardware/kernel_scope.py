"""Kernels in force while a run computes: attention, float32 products, compiled blocks. All of it ends with its block.

Imports torch.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainer_core.hardware.kernels import ORDER, KernelSettings, chosen_attention
from trainer_core.hardware.placement import torch_work
from trainer_core.hardware.profiles import HardwareProfile

GRAPHS = 64
"""Graphs of one kind of block before torch gives up compiling it: buckets times ways in which its inputs differ."""


@contextmanager
def training_work(profile: HardwareProfile, settings: KernelSettings) -> Generator[None]:
    """Surround a run: threads, memory, attention, float32 and compilation as the settings say, and all back after."""
    with ExitStack() as stack:
        stack.enter_context(torch_work(profile, settings.threads))
        if profile.device == "cuda":
            stack.enter_context(attention_order(chosen_attention(profile, settings.attention)))
            stack.enter_context(float32_products(settings.tf32 == "on"))
        if settings.compile != "off" and (settings.compile == "blocks" or profile.compile):
            stack.enter_context(more_graphs())
        yield


@contextmanager
def attention_order(choice: str) -> Generator[None]:
    """Have torch try its attention kernels in an order of `ORDER` inside the block, in all models."""
    with ExitStack() as stack:
        if choice in ORDER:
            kernels = [getattr(SDPBackend, name) for name in ORDER[choice]]
            stack.enter_context(sdpa_kernel(kernels, set_priority=True))
        yield


@contextmanager
def float32_products(tensor_cores: bool) -> Generator[None]:
    """Have float32 products on a GPU rounded to TF32's 10 bits inside the block, or computed as they are written.

    torch's own default is mixed: convolutions are rounded, matrix products are not.
    """
    backends: Any = torch.backends
    parts = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    before = [part.fp32_precision for part in parts]
    for part in parts:
        part.fp32_precision = "tf32" if tensor_cores else "ieee"
    try:
        yield
    finally:
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision


def compile_blocks(blocks: Sequence[nn.Module], backend: str | Any = "inductor") -> None:
    """Compile blocks in place, each at its first call; names of modules and weights stay.

    Adapters must be attached before. The first size is compiled as it is, the second for any size, so that the number
    of graphs does not grow with the number of buckets.

    Args:
        blocks: of a denoiser.
        backend: of torch.compile.
    """
    for block in blocks:
        block.compile(backend=backend, dynamic=None)


@contextmanager
def more_graphs() -> Generator[None]:
    """Let torch compile as many graphs as buckets need inside the block; by default it gives up at the ninth."""
    import torch._dynamo

    with torch._dynamo.config.patch(recompile_limit=GRAPHS, accumulated_recompile_limit=4 * GRAPHS):
        yield
