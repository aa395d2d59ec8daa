"""LoRA under the names of the model's original code: `diffusion_model.<module>.lora_A.weight`.

ai-toolkit writes those of FLUX.2 and Chroma so, and diffusion-pipe those of several models; programs that run the
original code find the modules by these names. ComfyUI maps them for every family of this format, also for Lumina 2,
whose names of diffusers it does not know. diffusers reads them for the families that say so.

alpha / rank is folded into lora_B, as all readers take alpha = rank. Modules that the original code joins are joined,
as in kohya's keys. UNets and Sana have no such file: the families do not list their original names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer_core.adapter_kinds import adapter_kinds
from trainer_core.adapters.layers import Layer, LoraLayer
from trainer_core.errors import ExportError
from trainer_core.export.fused_layers import fused_layers
from trainer_core.export.lora_format import LoraFormat
from trainer_core.export.low_rank import balanced, folded
from trainer_core.export.module_names import split

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig
    from trainer_core.export.module_names import Modules
    from trainer_core.families.spec import KeyStyle, LoraNames


def tensors(layers: Mapping[str, Layer], modules: Modules) -> dict[str, Tensor]:
    """Return `diffusion_model.<module>.lora_A.weight` and `.lora_B.weight`; text encoders have their names of PEFT.

    Raises:
        ExportError: a layer is no plain LoRA, or its module has no name in the original code.
    """
    found: dict[str, Tensor] = {}
    for key, layer in _by_key(layers, modules).items():
        whole = balanced(folded(layer))
        found |= {f"{key}.lora_A.weight": whole.down, f"{key}.lora_B.weight": whole.up}
    return found


def _by_key(layers: Mapping[str, Layer], modules: Modules) -> dict[str, LoraLayer]:
    plain = {name: layer for name, layer in layers.items() if isinstance(layer, LoraLayer) and layer.magnitude is None}
    if others := sorted(layers.keys() - plain.keys()):
        raise ExportError(f"{others[0]}: is no plain LoRA. Leave `native` out of export.formats.")
    if not modules.native:
        return {modules.key(name, "original"): layer for name, layer in plain.items()}
    text = {name: layer for name, layer in plain.items() if split(name)[0] != modules.spec.denoiser}
    fused = fused_layers(plain, modules, "native")
    return {modules.key(name, "original"): layer for name, layer in text.items()} | {
        f"diffusion_model.{native}": layer for native, layer in fused.items()
    }


def _style(names: LoraNames) -> KeyStyle | None:
    known = bool(names.native) or names.comfyui == "peft"
    return "original" if known else None


def _unsupported_reason(names: LoraNames, adapter: AdapterConfig, options: AdapterOptionsConfig) -> str:
    changed = options.decompose or options.tucker or adapter.train_norm
    return "" if adapter_kinds()[adapter.type].plain_lora and not changed else "its readers load plain LoRA only"


FORMAT = LoraFormat(
    "native",
    "ComfyUI, and programs with the model's original code",
    _style,
    tensors,
    _unsupported_reason,
    for_comfyui=True,
)
