"""The LoRA that a run starts from (`adapter.init_from`): its hash is in the key, its weights are read by training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer_core.errors import ConfigError, ExportError
from trainer_core.stages.lora_settings import LoraContext
from trainer_core.types import JSON, FileStat, Finding

if TYPE_CHECKING:
    from trainer_core.adapters.layers import Layer


def initial_key(context: LoraContext) -> dict[str, JSON]:
    """Return what a key holds of the file: its SHA-256, whatever it is called; nothing without one."""
    path = context.settings.adapter.init_from
    if path is None or not path.is_file():
        return {}
    hashes = context.workspace.store.index.file_hashes({str(path): FileStat.of_path(path)})
    return {"init_from": hashes[str(path)]}


def initial_layers(context: LoraContext) -> Mapping[str, Layer] | None:
    """Return the file's layers by module of the denoiser; None without a file.

    Raises:
        ConfigError: it trains a text encoder, or cannot be read as a LoRA of this base.
    """
    from trainer_core.export.readers.read import read_file, read_layers
    from trainer_core.stages.publishing.lora_files import base_modules

    path, component = context.settings.adapter.init_from, context.workspace.family.spec.denoiser
    if path is None:
        return None
    try:
        tensors, metadata = read_file(path)
        layers = read_layers(tensors, base_modules(context), metadata, path.name)
    except ExportError as error:
        fix = "Name a LoRA that was trained on this family's base."
        raise ConfigError([Finding("error", "adapter.init_from", str(error), fix)]) from error
    return {name.removeprefix(f"{component}."): layer for name, layer in layers.items()}
