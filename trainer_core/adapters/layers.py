"""What an adapter adds to one module, as a product of two small matrices: the form that every LoRA file holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LoraLayer:
    """The update of one weight: alpha / rank * up @ down."""

    down: Tensor
    """[rank, in], or [rank, in, height, width] for a convolution. PEFT: lora_A; kohya: lora_down."""
    up: Tensor
    """[out, rank], or [out, rank, 1, 1] for a convolution. PEFT: lora_B; kohya: lora_up."""
    alpha: float

    @property
    def rank(self) -> int:
        """Width of the two factors."""
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / self.rank
