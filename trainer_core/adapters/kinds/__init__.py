"""Kinds of adapters, by name. A new kind is one row here, and one in `trainer_core.adapters.ADAPTERS`."""

from __future__ import annotations

from trainer_core.adapters.kinds import glora, loha, lokr, low_rank, oft, simple
from trainer_core.adapters.kinds.base import Call, Kind, Place, Shape, Tensors, added

KINDS: dict[str, Kind] = {
    "locon": low_rank.KIND,
    "loha": loha.KIND,
    "lokr": lokr.KIND,
    "glora": glora.KIND,
    "ia3": simple.IA3,
    "ia3-on-input": simple.IA3_ON_INPUT,
    "full": simple.FULL,
    "diag-oft": oft.DIAGONAL,
    "boft": oft.BUTTERFLY,
    "norm": simple.NORM,
}
"""Kind of a layer in a file -> its functions. DoRA and DyLoRA are `locon` in files."""

__all__ = ["KINDS", "Call", "Kind", "Place", "Shape", "Tensors", "added"]
