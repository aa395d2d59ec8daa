"""PEFT keys with the modules' names of diffusers: what `load_lora_weights` reads for every family.

The format has no alpha, and readers take alpha = rank: so alpha / rank is folded into lora_B.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer_core.export.formats.base import LoraFormat

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.adapters.layers import LoraLayer
    from trainer_core.export.names import Modules


def tensors(layers: Mapping[str, LoraLayer], modules: Modules) -> dict[str, Tensor]:
    """Return `<component>.<module>.lora_A.weight` and `.lora_B.weight` of every layer."""
    from trainer_core.export.low_rank import balanced, folded

    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        key, whole = modules.peft(name), balanced(folded(layer))
        found |= {f"{key}.lora_A.weight": whole.down, f"{key}.lora_B.weight": whole.up}
    return found


FORMAT = LoraFormat("diffusers", "diffusers, and all that reads PEFT keys", lambda names: "peft", tensors)
