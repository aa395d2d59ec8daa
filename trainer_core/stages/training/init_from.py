"""The LoRA that a run starts from: found before training, in the key by what it holds, read when training begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer_core.config.groups import AdapterConfig
from trainer_core.types import JSON, Finding

if TYPE_CHECKING:
    from trainer_core.adapters.layers import Layer
    from trainer_core.stages.stage import StageContext


def initial_findings(adapter: AdapterConfig) -> list[Finding]:
    """Return what is wrong with `adapter.init_from` before it is read."""
    path = adapter.init_from
    if path is None or (path.is_file() and path.suffix.lower() == ".safetensors"):
        return []
    return [Finding("error", "adapter.init_from", f"{path} is no .safetensors file.", "Name a LoRA file.")]


def initial_key(context: StageContext) -> dict[str, JSON]:
    """Return what a key holds of the file: its SHA-256, whatever it is called; nothing without one."""
    from trainer_core.stages.project.session import file_stat

    path = context.settings.adapter.init_from
    if path is None or not path.is_file():
        return {}
    hashes = context.session.store.index.file_hashes({str(path): file_stat(path)})
    return {"init_from": hashes[str(path)]}


def initial_layers(context: StageContext) -> Mapping[str, Layer] | None:
    """Return the file's layers by module of the denoiser; None without a file.

    Raises:
        ConfigError: it trains a text encoder, or cannot be read as a LoRA of this base.
    """
    from trainer_core.errors import ConfigError, ExportError
    from trainer_core.export.readers.read import read_file, read_layers
    from trainer_core.stages.publishing.lora_files import base_modules

    path, component = context.settings.adapter.init_from, context.session.family.spec.denoiser
    if path is None:
        return None
    try:
        tensors, metadata = read_file(path)
        layers = read_layers(tensors, base_modules(context), metadata, path.name)
    except ExportError as error:
        fix = "Name a LoRA that was trained on this family's base."
        raise ConfigError([Finding("error", "adapter.init_from", str(error), fix)]) from error
    return {name.removeprefix(f"{component}."): layer for name, layer in layers.items()}
