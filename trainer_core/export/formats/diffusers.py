"""PEFT keys with the modules' names of diffusers: what `load_lora_weights` reads for every family.

The format has no alpha, and readers take alpha = rank: so alpha / rank is folded into lora_B. DoRA's magnitudes are
beside it; of other adapters diffusers reads LoKr, for families that say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer_core.adapter_kinds import adapter_kinds, layer_kinds
from trainer_core.adapters.layers import Layer, LoraLayer
from trainer_core.errors import ExportError
from trainer_core.export.lora_format import LoraFormat
from trainer_core.export.low_rank import balanced, folded

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig
    from trainer_core.export.module_names import Modules
    from trainer_core.families.spec import LoraNames


def tensors(layers: Mapping[str, Layer], modules: Modules) -> dict[str, Tensor]:
    """Return `<component>.<module>.lora_A.weight` and `.lora_B.weight` of every layer.

    Raises:
        ExportError: a layer is none that PEFT's keys can hold.
    """
    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        key = modules.peft(name)
        if isinstance(layer, LoraLayer):
            whole = balanced(folded(layer))
            found |= {f"{key}.lora_A.weight": whole.down, f"{key}.lora_B.weight": whole.up}
            if whole.magnitude is not None:
                found[f"{key}.lora_magnitude_vector"] = whole.magnitude
        elif (peft_tensors := layer_kinds()[layer.kind].peft_tensors) and modules.spec.lora.lokr_in_diffusers:
            found |= {f"{key}.{end}": tensor for end, tensor in peft_tensors(layer.tensors).items()}
        else:
            raise ExportError(f"{name}: diffusers reads no {layer.kind}. Leave `diffusers` out of export.formats.")
    return found


def _unsupported_reason(names: LoraNames, adapter: AdapterConfig, options: AdapterOptionsConfig) -> str:
    kind = adapter_kinds()[adapter.type]
    if adapter.train_norm:
        return "diffusers reads no norms"
    if kind.product:
        return "diffusers reads no Tucker decompositions" if options.tucker else ""
    if layer_kinds()[kind.layers].peft_tensors and names.lokr_in_diffusers:
        return f"diffusers reads no decomposed {adapter.type}" if options.decompose else ""
    return f"diffusers reads no {adapter.type}"


FORMAT = LoraFormat(
    "diffusers",
    "diffusers, and all that reads PEFT keys",
    lambda names: "peft",
    tensors,
    _unsupported_reason,
    for_diffusers=True,
)
