"""LoRAs of random numbers over the modules of tiny bases, and their deltas as whole matrices."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer_core.adapters.layers import Layer, LoraLayer
from trainer_core.export.hollow_models import hollow_denoiser, hollow_text_encoders, modules_of
from trainer_core.export.module_names import Modules
from trainer_core.export.readers.read import read_layers
from trainer_core.export.write import Lora
from trainer_core.families import get_family


def config_of(base: Path, family: str) -> dict[str, Any]:
    return json.loads((base / get_family(family).spec.denoiser / "config.json").read_text())


def modules_in(base: Path, family: str, text: bool = False) -> Modules:
    spec = get_family(family).spec
    models = {spec.denoiser: hollow_denoiser(spec, config_of(base, family))}
    return modules_of(spec, models | (hollow_text_encoders(spec, base) if text else {}))


def targets(modules: Modules, preset: str = "all-linear") -> list[str]:
    """Names of the modules that a preset matches."""
    spec = modules.spec
    pattern = re.compile(re.escape(f"{spec.denoiser}.") + f"({spec.targets[preset]})")
    return [name for name in modules.shapes if pattern.fullmatch(name)]


def random_lora(modules: Modules, names: Iterable[str], rank: int = 4, alpha: float = 2.0, seed: int = 0) -> Lora:
    generator = torch.Generator().manual_seed(seed)
    layers: dict[str, Layer] = {}
    for name in names:
        rows, columns, *kernel = modules.shapes[name]
        down = torch.randn(rank, columns, *kernel, generator=generator) / columns**0.5
        up = torch.randn(rows, rank, *([1] * len(kernel)), generator=generator) * 0.02
        layers[name] = LoraLayer(down, up, alpha)
    return Lora(layers, modules)


def read_plain(
    tensors: Mapping[str, Tensor], modules: Modules, metadata: Mapping[str, str] | None = None, source: str = "the file"
) -> dict[str, LoraLayer]:
    """Read layers that are all plain LoRA."""
    found = read_layers(tensors, modules, metadata, source)
    plain = {name: layer for name, layer in found.items() if isinstance(layer, LoraLayer)}
    assert len(plain) == len(found)
    return plain


def delta(layer: Layer) -> Tensor:
    assert isinstance(layer, LoraLayer)
    return layer.scale * layer.up.double().flatten(1) @ layer.down.double().flatten(1)


def deltas(layers: Mapping[str, Layer]) -> dict[str, Tensor]:
    return {name: delta(layer) for name, layer in layers.items()}


def assert_same(found: Mapping[str, Layer], wanted: Mapping[str, Layer], tolerance: float = 1e-6) -> None:
    """Compare whole matrices; a layer that is not there is zero."""
    ours, theirs = deltas(found), deltas(wanted)
    for name in {**ours, **theirs}:
        zero = torch.zeros((), dtype=torch.float64)
        one, other = ours.get(name, zero), theirs.get(name, zero)
        assert torch.linalg.norm(one - other) <= tolerance * torch.linalg.norm(other), name
