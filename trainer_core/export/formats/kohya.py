"""kohya's keys, with an alpha for every module: what A1111, Forge and ComfyUI grew up with.

Families whose original code fuses modules (query, key and value in one) are written so too: exact, with a
block-diagonal up matrix whose rank is the sum of the parts'. Parts that were not trained are rows of zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer_core.errors import ExportError
from trainer_core.export.formats.base import LoraFormat

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.adapters.layers import LoraLayer
    from trainer_core.export.names import Modules


def tensors(layers: Mapping[str, LoraLayer], modules: Modules) -> dict[str, Tensor]:
    """Return `.lora_down.weight`, `.lora_up.weight` and `.alpha` of every module, fused where the family's are."""
    import torch

    found: dict[str, Tensor] = {}
    for key, layer in (_fused(layers, modules) if modules.native else _plain(layers, modules)).items():
        found |= {f"{key}.lora_down.weight": layer.down, f"{key}.lora_up.weight": layer.up}
        found[f"{key}.alpha"] = torch.tensor(layer.alpha, dtype=torch.float32)
    return found


def _plain(layers: Mapping[str, LoraLayer], modules: Modules) -> dict[str, LoraLayer]:
    from trainer_core.export.low_rank import balanced

    return {modules.kohya(name): balanced(layer) for name, layer in layers.items()}


def _fused(layers: Mapping[str, LoraLayer], modules: Modules) -> dict[str, LoraLayer]:
    from trainer_core.export.low_rank import stacked
    from trainer_core.export.names import flat, split

    denoiser = modules.spec.denoiser
    found = _plain({name: layer for name, layer in layers.items() if split(name)[0] != denoiser}, modules)
    own = [name for name in layers if split(name)[0] == denoiser]
    if homeless := [name for name in own if name not in modules.native_of]:
        message = (
            f"{homeless[0]} and {len(homeless) - 1} more have no name in the original code of {modules.spec.title}, "
        )
        raise ExportError(message + "which kohya's keys use. Export the format `diffusers`, or lower adapter.targets.")
    for native in dict.fromkeys(modules.native_of[name] for name in own):
        parts = [(layers.get(part.name), part.stop - part.start) for part in modules.native[native]]
        found[f"lora_unet_{flat(native)}"] = stacked(parts)
    return found


FORMAT = LoraFormat("kohya", "kohya's scripts, A1111, Forge, ComfyUI", lambda names: "kohya", tensors)
