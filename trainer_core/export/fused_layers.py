"""Layers as the family's original code cuts its modules, for formats that have its names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer_core.adapters.layers import Layer, LoraLayer
from trainer_core.errors import ExportError
from trainer_core.export.low_rank import stacked
from trainer_core.export.module_names import split

if TYPE_CHECKING:
    from trainer_core.export.module_names import Modules


def fused_layers(layers: Mapping[str, Layer], modules: Modules, format_name: str) -> dict[str, LoraLayer]:
    """Return the denoiser's layers by the names of the original code.

    Modules that are one there are joined: exactly, with a block-diagonal up matrix (`low_rank.stacked`).

    Args:
        layers: by `<component>.<module>`; those of text encoders are left out.
        modules: of the base model; `modules.native` is not empty.
        format_name: named in errors.

    Raises:
        ExportError: a module has no name in the original code, or an adapter other than plain LoRA cannot be joined.
    """
    denoiser, title = modules.spec.denoiser, modules.spec.title
    own = [name for name in layers if split(name)[0] == denoiser]
    if nameless := [name for name in own if name not in modules.native_of]:
        message = f"{nameless[0]} and {len(nameless) - 1} more have no name in the original code of {title}, "
        message += f"which the format `{format_name}` uses. "
        raise ExportError(message + "Export the format `diffusers`, or lower adapter.targets.")
    plain = {name: layer for name, layer in layers.items() if isinstance(layer, LoraLayer) and layer.magnitude is None}
    if others := [name for name in own if name not in plain]:
        message = f"{others[0]} is no plain LoRA, and the format `{format_name}` joins modules of {title}. "
        raise ExportError(f"{message}Leave `{format_name}` out of export.formats.")
    found: dict[str, LoraLayer] = {}
    for native in dict.fromkeys(modules.native_of[name] for name in own):
        parts = [(plain.get(part.name), part.stop - part.start) for part in modules.native[native]]
        found[native] = stacked(parts)
    return found
