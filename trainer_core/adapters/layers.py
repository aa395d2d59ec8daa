"""What an adapter adds to one module, as files hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LoraLayer:
    """The update of one weight as a product of two small matrices: alpha / rank * up @ down."""

    down: Tensor
    """[rank, in], or [rank, in, height, width] for a convolution. PEFT: lora_A; kohya: lora_down."""
    up: Tensor
    """[out, rank], or [out, rank, 1, 1] for a convolution. PEFT: lora_B; kohya: lora_up."""
    alpha: float
    magnitude: Tensor | None = None
    """[out], DoRA's: the length of each output's row of the changed weight; None for a plain LoRA."""

    @property
    def rank(self) -> int:
        """Width of the two factors."""
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class LycorisLayer:
    """The update of one weight in the tensors and names of LyCORIS."""

    kind: str
    """Row of `trainer_core.adapters.kinds.KINDS`."""
    tensors: Mapping[str, Tensor]
    """By the end of their key: `hada_w1_a`, `alpha`, `dora_scale` ..."""

    @property
    def alpha(self) -> float:
        """LyCORIS's alpha; 0 where there is none."""
        return float(self.tensors["alpha"]) if "alpha" in self.tensors else 0.0


Layer = LoraLayer | LycorisLayer
