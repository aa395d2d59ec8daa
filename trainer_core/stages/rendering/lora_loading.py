"""Put the LoRA of a file on a pipeline or a denoiser: by diffusers where it reads it, else by adapters of our own."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from trainer_core.adapters.adapter_module import adapters_of, put_on, take_off
from trainer_core.adapters.layers import as_tensors
from trainer_core.errors import ExportError
from trainer_core.export.hollow_models import modules_of
from trainer_core.export.lycoris_file import holds_lycoris
from trainer_core.export.readers.read import read_file, read_layers
from trainer_core.sampling import render

if TYPE_CHECKING:
    from trainer_core.adapters.layers import Layer
    from trainer_core.families.spec import FamilySpec


def read_by_diffusers(path: Path, spec: FamilySpec) -> bool:
    """Say whether `load_lora_weights` loads all of a file as it was meant, by its keys."""
    with safe_open(path, framework="pt") as file:
        keys = list(file.keys())
    is_lokr = all(".lokr_" in key and key.startswith(f"{spec.denoiser}.") for key in keys)
    return not holds_lycoris(keys) or (is_lokr and spec.lora.lokr_in_diffusers)


def load_lora(pipeline: Any, path: Path, spec: FamilySpec) -> None:
    """Load a LoRA file as any user of diffusers would; what diffusers does not read is put on the denoiser by us.

    Raises:
        ModelError: diffusers took nothing from the file.
        ExportError: the file holds what neither diffusers nor we read, or is of another base.
    """
    if read_by_diffusers(path, spec):
        render.load_lora(pipeline, path)
    else:
        _attach(getattr(pipeline, spec.denoiser), path, spec)


def set_strength(pipeline: Any, strength: float, spec: FamilySpec) -> None:
    """Scale what the loaded LoRA adds; 1 is the strength that it was trained with."""
    own = adapters_of(getattr(pipeline, spec.denoiser))
    for adapter in own.values():
        adapter.strength = strength
    if not own:
        render.set_strength(pipeline, strength)


def unload_lora(pipeline: Any, spec: FamilySpec) -> None:
    """Take the loaded LoRA off."""
    take_off(getattr(pipeline, spec.denoiser))
    pipeline.unload_lora_weights()


@contextmanager
def with_lora(denoiser: Any, path: Path, spec: FamilySpec) -> Generator[None]:
    """Have the LoRA of a file on a denoiser inside the block."""
    if read_by_diffusers(path, spec):
        denoiser.load_lora_adapter(str(path.parent), weight_name=path.name, prefix=spec.denoiser)
        take = denoiser.unload_lora
    else:
        _attach(denoiser, path, spec)
        take = partial(take_off, denoiser)
    try:
        yield
    finally:
        take()


def _attach(denoiser: Any, path: Path, spec: FamilySpec) -> None:
    for name, layer in _layers(denoiser, path, spec).items():
        kind, tensors = as_tensors(layer)
        wide = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
        put_on(denoiser.get_submodule(name), kind, wide, None).eval()


def _layers(denoiser: Any, path: Path, spec: FamilySpec) -> Mapping[str, Layer]:
    tensors, metadata = read_file(path)
    layers = read_layers(tensors, modules_of(spec, {spec.denoiser: denoiser}), metadata, path.name)
    if not layers:
        raise ExportError(f"{path}: holds nothing for {spec.title}. Export it again.")
    return {name.removeprefix(f"{spec.denoiser}."): layer for name, layer in layers.items()}
