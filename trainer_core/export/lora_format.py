"""What a format of LoRA files is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer_core.families.spec import KeyStyle, LoraNames

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.adapters.layers import Layer
    from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig
    from trainer_core.export.module_names import Modules


def _holds_everything(names: LoraNames, adapter: AdapterConfig, options: AdapterOptionsConfig) -> str:
    return ""


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
    unsupported_reason: Callable[[LoraNames, AdapterConfig, AdapterOptionsConfig], str] = _holds_everything
    """(names of a family for which there is such a file, adapter, its options) -> why its readers would not load the
    adapter right; empty if they do."""
    for_diffusers: bool = False
    """Whether diffusers must load it, whatever the adapter is."""
    for_comfyui: bool = False
    """Whether ComfyUI must map every key."""
    for_lycoris: bool = False
    """Whether its keys are for LyCORIS's own loader, and diffusers is not asked."""

    def fuses_modules(self, names: LoraNames) -> bool:
        """Say whether modules of diffusers are joined as the family's original code has them."""
        return bool(names.native) and self.style(names) != "peft"
