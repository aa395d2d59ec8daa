"""What dropout of ranks and modules keeps, drawn on the CPU and brought to the device without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def drawn_to_keep(size: tuple[int, ...], dropped: float, like: Tensor) -> Tensor:
    """Return 1 where something is kept and 0 where it is dropped, in `like`'s precision and on its device.

    Drawn by the CPU's generator, so that the numbers are the same on every device. A GPU's copy comes from pinned
    memory: from other memory it would wait until the GPU has done all its work, once for each layer.

    Args:
        size: of what is drawn.
        dropped: probability of 0.
        like: a tensor of the layer.
    """
    drawn = torch.rand(size, pin_memory=like.is_cuda).to(like.device, non_blocking=True)
    return (drawn >= dropped).to(like.dtype)
