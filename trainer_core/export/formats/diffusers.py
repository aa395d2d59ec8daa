"""PEFT keys with the modules' names of diffusers: what `load_lora_weights` reads for every family.

The format has no alpha, and readers take alpha = rank: so alpha / rank is folded into lora_B. DoRA's magnitudes are
beside it; of other adapters diffusers reads LoKr, for families that say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer_core.adapters.layers import Layer, LoraLayer
from trainer_core.errors import ExportError
from trainer_core.export.formats.base import LoraFormat

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.export.module_names import Modules


def tensors(layers: Mapping[str, Layer], modules: Modules) -> dict[str, Tensor]:
    """Return `<component>.<module>.lora_A.weight` and `.lora_B.weight` of every layer.

    Raises:
        ExportError: a layer is none that PEFT's keys can hold.
    """
    from trainer_core.export.low_rank import balanced, folded

    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        key = modules.peft(name)
        if isinstance(layer, LoraLayer):
            whole = balanced(folded(layer))
            found |= {f"{key}.lora_A.weight": whole.down, f"{key}.lora_B.weight": whole.up}
            if whole.magnitude is not None:
                found[f"{key}.lora_magnitude_vector"] = whole.magnitude
        elif layer.kind == "lokr" and modules.spec.lora.lokr_in_diffusers:
            found |= {f"{key}.{end}": tensor for end, tensor in _lokr(layer.tensors).items()}
        else:
            raise ExportError(f"{name}: diffusers reads no {layer.kind}. Leave `diffusers` out of export.formats.")
    return found


def _lokr(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return LoKr's tensors with alpha / rank folded into the small matrix."""
    found = {end: tensor for end, tensor in tensors.items() if end != "alpha"}
    if "lokr_w2_b" in found:
        small = "lokr_w1" if "lokr_w1" in found else "lokr_w1_a"
        found[small] = found[small] * (float(tensors["alpha"]) / found["lokr_w2_b"].shape[0])
    return found


FORMAT = LoraFormat("diffusers", "diffusers, and all that reads PEFT keys", lambda names: "peft", tensors)
