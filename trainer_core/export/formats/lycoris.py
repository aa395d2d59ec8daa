"""LyCORIS's own keys, `lycoris_<module>.<tensor>`: what `create_lycoris_from_weights` puts on a model of diffusers.

The one format that holds every kind of adapter for every family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer_core.export.lora_format import LoraFormat
from trainer_core.export.lycoris_file import named_tensors
from trainer_core.export.module_names import flat, split

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.adapters.layers import Layer
    from trainer_core.export.module_names import Modules


def tensors(layers: Mapping[str, Layer], modules: Modules) -> dict[str, Tensor]:
    """Return every layer's tensors under its module's name with `_` for `.`; text encoders have kohya's prefixes."""
    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        component, module = split(name)
        key = f"lycoris_{flat(module)}" if component == modules.spec.denoiser else modules.kohya(name)
        found |= {f"{key}.{end}": tensor for end, tensor in named_tensors(layer).items()}
    return found


FORMAT = LoraFormat("lycoris", "LyCORIS, and trainers that use it", lambda names: "kohya", tensors, for_lycoris=True)
