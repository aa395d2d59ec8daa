"""What a format of LoRA files is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer_core.families.spec import KeyStyle, LoraNames

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.adapters.layers import Layer
    from trainer_core.export.module_names import Modules


@dataclass(frozen=True)
class LoraFormat:
    """A way to write a LoRA's layers as named tensors."""

    name: str
    title: str
    """What loads it, in a few words."""
    style: Callable[[LoraNames], KeyStyle | None]
    """The kind of its keys for a family; None if there is no such file for it."""
    tensors: Callable[[Mapping[str, Layer], Modules], dict[str, Tensor]]
    """Layers by name -> tensors by key, in the precision of the layers.

    Raises:
        ExportError: a module has no name in this format.
    """
