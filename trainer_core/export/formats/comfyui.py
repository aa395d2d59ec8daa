"""What ComfyUI reads for a family: kohya's keys for UNets, PEFT's with alpha folded in for transformers.

Adapters other than LoRA have LyCORIS's tensors under the same names of modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer_core.adapter_kinds import adapter_kinds
from trainer_core.adapters.layers import Layer, LoraLayer
from trainer_core.errors import ExportError
from trainer_core.export.formats import diffusers, kohya
from trainer_core.export.lora_format import LoraFormat
from trainer_core.export.lycoris_file import named_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig
    from trainer_core.export.module_names import Modules
    from trainer_core.families.spec import LoraNames


def tensors(layers: Mapping[str, Layer], modules: Modules) -> dict[str, Tensor]:
    """Return what the family's style gives.

    Raises:
        ExportError: ComfyUI reads no such layers, or none of the family.
    """
    style = modules.spec.lora.comfyui
    if style is None:
        raise ExportError(f"ComfyUI reads no LoRA of {modules.spec.title}. Leave `comfyui` out of export.formats.")
    if style == "kohya":
        return kohya.tensors(layers, modules)
    plain = {name: layer for name, layer in layers.items() if isinstance(layer, LoraLayer)}
    found = diffusers.tensors(plain, modules)
    for name, layer in layers.items():
        if name not in plain:
            found |= {f"{modules.peft(name)}.{end}": tensor for end, tensor in named_tensors(layer).items()}
    return found


def _unsupported_reason(names: LoraNames, adapter: AdapterConfig, options: AdapterOptionsConfig) -> str:
    kind = adapter_kinds()[adapter.type]
    if not kind.comfyui_loads:
        return f"ComfyUI reads no {adapter.type}"
    if kind.magnitudes or options.decompose:
        return _MAGNITUDES
    if options.rescaled and not kind.comfyui_loads_scales:
        return f"ComfyUI leaves the scales of {adapter.type} out"
    if adapter.train_norm and names.native:
        return "ComfyUI has other names for the norms of this family"
    return ""


_MAGNITUDES = "ComfyUI divides DoRA's magnitudes by the base's row lengths, training by those of the changed rows"
FORMAT = LoraFormat("comfyui", "ComfyUI", lambda names: names.comfyui, tensors, _unsupported_reason, for_comfyui=True)
