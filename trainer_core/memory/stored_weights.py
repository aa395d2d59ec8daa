"""Bytes of a denoiser's weights in each scheme, by arithmetic over a model without weights. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from torch import nn

from trainer_core.families.spec import FamilySpec
from trainer_core.families.storage.replace import chosen_layers
from trainer_core.families.storage.schemes import DENSE, SCHEMES, Storage, StoredModules
from trainer_core.memory import fakes


@dataclass(frozen=True)
class Stored:
    """Bytes of a denoiser."""

    weights: int
    blocks: list[int]
    """Of each block, in the order in which they work."""
    matrix: int
    """The largest matrix that is widened before it is multiplied; 0 for none."""


def storages() -> Iterator[tuple[str, Storage]]:
    """Yield the name of each storage, `dense` or `scheme modules`, and the storage."""
    yield "dense", DENSE
    for scheme in SCHEMES.values():
        for modules in get_args(StoredModules):
            yield f"{scheme.name} {modules}", Storage(scheme.name, modules)


def stored(denoiser: nn.Module, spec: FamilySpec, storage: Storage) -> Stored:
    """Return what a denoiser weighs, without changing it.

    Args:
        denoiser: without weights.
        spec: its family.
        storage: how it is held.
    """
    sizes = dict[str, int]()
    for name in chosen_layers(denoiser, spec.stored_layers, storage):
        weight = denoiser.get_submodule(name).weight
        assert isinstance(weight, nn.Parameter)
        sizes[name] = SCHEMES[storage.scheme].nbytes(*weight.shape) - weight.numel() * weight.element_size()
    matrix = max((_bytes(denoiser.get_submodule(name)) for name in sizes), default=0)
    blocks = [
        fakes.nbytes(block) + sum(change for name, change in sizes.items() if name.startswith(f"{attribute}.{number}."))
        for attribute in spec.swappable
        for number, block in enumerate(getattr(denoiser, attribute))
    ]
    return Stored(fakes.nbytes(denoiser) + sum(sizes.values()), blocks, matrix)


def _bytes(linear: nn.Module) -> int:
    weight = linear.weight
    assert isinstance(weight, nn.Parameter)
    return weight.numel() * weight.element_size()
