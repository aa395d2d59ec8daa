"""What an adapter adds to one module, as files hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer_core.adapter_kinds.low_rank import DOWN, FILE_KIND, MID, UP
from trainer_core.adapter_kinds.oft import clamped
from trainer_core.lazy import torch

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
    """A key of `trainer_core.adapter_kinds.layer_kinds()`."""
    tensors: Mapping[str, Tensor]
    """By the end of their key: `hada_w1_a`, `alpha`, `dora_scale` ..."""

    @property
    def alpha(self) -> float:
        """LyCORIS's alpha; 0 where there is none."""
        return float(self.tensors["alpha"]) if "alpha" in self.tensors else 0.0


Layer = LoraLayer | LycorisLayer


def as_layer(kind: str, tensors: Mapping[str, Tensor]) -> Layer:
    """Return an adapter's tensors as files hold them: a product of two matrices is a `LoraLayer`."""
    if DOWN in tensors and MID not in tensors:
        magnitude = tensors["dora_scale"].flatten() if "dora_scale" in tensors else None
        return LoraLayer(tensors[DOWN], tensors[UP], float(tensors["alpha"]), magnitude)
    return LycorisLayer(kind, clamped(tensors) if "oft_blocks" in tensors else dict(tensors))


def as_tensors(layer: Layer) -> tuple[str, dict[str, Tensor]]:
    """Return (kind of layer in files, tensors) of a layer, as adapters hold them."""
    if isinstance(layer, LycorisLayer):
        return layer.kind, dict(layer.tensors)
    tensors = {DOWN: layer.down, UP: layer.up, "alpha": torch.tensor(layer.alpha, dtype=torch.float32)}
    if layer.magnitude is not None:
        tensors["dora_scale"] = layer.magnitude.reshape(-1, *[1] * (layer.up.ndim - 1))
    return FILE_KIND, tensors
