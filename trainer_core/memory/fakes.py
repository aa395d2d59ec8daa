"""Models of the real classes without weights, and then with fake ones, which take no memory. Imports torch."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer_core.families.spec import FamilySpec
from trainer_core.hardware.meter import Meter


def hollow(spec: FamilySpec, component: str, config: Mapping[str, Any], dtype: torch.dtype) -> nn.Module:
    """Build a component on the meta device, frozen, in the precision in which it is loaded.

    Args:
        spec: the family.
        component: name of a model of it.
        config: what its `config.json` holds.
        dtype: of its weights; those that its class keeps in float32 stay so.
    """
    part = spec.components[component]
    cls: Any = getattr(importlib.import_module(part.library), part.loader)
    with init_empty_weights():
        model = cls.from_config(dict(config)) if part.library == "diffusers" else cls(_text_config(cls, config))
    # transformers keeps modules in float32 beside fp16 alone, diffusers beside bf16 too.
    exact = part.library == "diffusers" or dtype == torch.float16
    kept = tuple(getattr(cls, "_keep_in_fp32_modules", None) or ()) if exact else ()
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not any(word in name.split(".") for word in kept):
            parameter.data = parameter.data.to(dtype)
    return model.eval().requires_grad_(False)


def _text_config(cls: Any, config: Mapping[str, Any]) -> Any:
    return cls.config_class.from_dict(dict(config))


@contextmanager
def fake_mode() -> Generator[FakeTensorMode]:
    """Surround work on fake tensors. Tables that models keep as plain attributes stay real."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def fill(model: nn.Module) -> None:
    """Give a hollow model fake weights and buffers, inside `fake_mode`; shared ones stay shared."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            made.setdefault(id(parameter), nn.Parameter(_empty(parameter), parameter.requires_grad))
            setattr(module, name, made[id(parameter)])
        for name, buffer in list(module.named_buffers(recurse=False, remove_duplicate=False)):
            made.setdefault(id(buffer), _empty(buffer))
            setattr(module, name, made[id(buffer)])


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def metered(model: nn.Module, answer: int) -> Meter:
    """Return a meter that knows the weights of a filled model."""
    meter = Meter(answer)
    for tensor in (*model.parameters(), *model.buffers()):
        meter.track(tensor)
    return meter


def nbytes(model: nn.Module) -> int:
    """Return the bytes of a model's parameters and buffers, each once."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


Group = tuple[str, tuple[tuple[str, tuple[int, ...]], ...]]
"""Blocks of one list with the same weights: the list's name, and the weights' names and shapes."""


def groups(model: nn.Module, lists: Sequence[str]) -> dict[str, list[Group]]:
    """Return the group of each block.

    Args:
        model: the denoiser.
        lists: names of its lists of blocks.
    """
    return {name: [(name, _signature(block)) for block in getattr(model, name)] for name in lists}


def shorten(model: nn.Module, members: Mapping[str, Sequence[Group]], wanted: Mapping[Group, int]) -> None:
    """Keep so many blocks of each group, the first ones of it, in their order."""
    for name, of_block in members.items():
        left = Counter(wanted)
        kept: list[nn.Module] = []
        for block, group in zip(getattr(model, name), of_block, strict=True):
            if left[group] > 0:
                left[group] -= 1
                kept.append(block)
        setattr(model, name, nn.ModuleList(kept))


def _signature(block: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(parameter.shape)) for name, parameter in block.named_parameters())
