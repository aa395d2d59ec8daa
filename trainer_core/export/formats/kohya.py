"""kohya's keys, with an alpha for every module: what A1111, Forge and ComfyUI grew up with.

Families whose original code fuses modules (query, key and value in one) are written so too: exact, with a
block-diagonal up matrix whose rank is the sum of the parts'. Parts that were not trained are rows of zeros. Adapters
other than LoRA, which cannot be joined so, have LyCORIS's tensors under the modules' own names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from trainer_core.adapter_kinds import adapter_kinds
from trainer_core.adapters.layers import Layer, LoraLayer
from trainer_core.export.fused_layers import fused_layers
from trainer_core.export.lora_format import LoraFormat
from trainer_core.export.lycoris_file import named_tensors
from trainer_core.export.module_names import flat, split

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig
    from trainer_core.export.module_names import Modules
    from trainer_core.families.spec import LoraNames


def tensors(layers: Mapping[str, Layer], modules: Modules) -> dict[str, Tensor]:
    """Return `.lora_down.weight`, `.lora_up.weight` and `.alpha` of every module, fused where the family's are."""
    found: dict[str, Tensor] = {}
    for key, layer in (_fused(layers, modules) if modules.native else _plain(layers, modules)).items():
        found |= {f"{key}.{end}": tensor for end, tensor in named_tensors(layer).items()}
    return found


def _plain(layers: Mapping[str, Layer], modules: Modules) -> dict[str, Layer]:
    return {modules.kohya(name): layer for name, layer in _with_one_alpha(layers).items()}


def _with_one_alpha(layers: Mapping[str, Layer]) -> Mapping[str, Layer]:
    """Return the same updates with one alpha: diffusers takes the most common one for all modules of a UNet."""
    alphas = Counter(layer.alpha for layer in layers.values() if isinstance(layer, LoraLayer))
    if len(alphas) < 2:
        return layers
    alpha = alphas.most_common(1)[0][0]
    return {
        name: replace(layer, up=layer.up * (layer.alpha / alpha), alpha=alpha)
        if isinstance(layer, LoraLayer)
        else layer
        for name, layer in layers.items()
    }


def _fused(layers: Mapping[str, Layer], modules: Modules) -> dict[str, Layer]:
    text = {name: layer for name, layer in layers.items() if split(name)[0] != modules.spec.denoiser}
    fused = fused_layers(layers, modules, "kohya")
    return _plain(text, modules) | {f"lora_unet_{flat(native)}": layer for native, layer in fused.items()}


def _unsupported_reason(names: LoraNames, adapter: AdapterConfig, options: AdapterOptionsConfig) -> str:
    changed = options.decompose or options.tucker or adapter.train_norm
    if names.native and (changed or not adapter_kinds()[adapter.type].plain_lora):
        return "kohya's keys join modules of this family, and only plain LoRA can be joined"
    return ""


FORMAT = LoraFormat(
    "kohya", "kohya's scripts, A1111, Forge, ComfyUI", lambda names: "kohya", tensors, _unsupported_reason
)
