"""What ComfyUI reads for a family: kohya's keys for UNets, PEFT's with alpha folded in for transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer_core.errors import ExportError
from trainer_core.export.formats import diffusers, kohya
from trainer_core.export.formats.base import LoraFormat

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.adapters.layers import LoraLayer
    from trainer_core.export.names import Modules

_WRITERS = {"peft": diffusers.tensors, "kohya": kohya.tensors}


def tensors(layers: Mapping[str, LoraLayer], modules: Modules) -> dict[str, Tensor]:
    """Return what the family's style gives."""
    style = modules.spec.lora.comfyui
    if style is None:
        raise ExportError(f"ComfyUI reads no LoRA of {modules.spec.title}. Leave `comfyui` out of export.formats.")
    return _WRITERS[style](layers, modules)


FORMAT = LoraFormat("comfyui", "ComfyUI", lambda names: names.comfyui, tensors)
