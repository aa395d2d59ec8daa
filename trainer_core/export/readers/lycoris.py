"""Layers of a file as LyCORIS itself understands them: the other party in the proof of what only it can read.

Its module classes are made from a file's tensors, over a weight of random numbers, and run. What the base's weights are
does not matter: both sides compute with the same, and an update that depends on them shows it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trainer_core.adapter_kinds import layer_kinds
from trainer_core.adapters.adapter_module import put_on, take_off
from trainer_core.adapters.layers import Layer, as_tensors
from trainer_core.errors import ExportError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PROBES = 8
"""Random inputs that a layer is run on."""
_LARGE = 2**24
_DRAWN = 1_000_003
"""Random numbers of a weight, a prime: no row is like another."""


def lycoris_error(layer: Layer, wanted: Layer, shape: tuple[int, ...], seed: int) -> float:
    """Return |found - wanted| / |wanted| of what a layer adds to the outputs of random inputs.

    Args:
        layer: read from the file; LyCORIS runs it.
        wanted: what was trained; we run it.
        shape: of the module's weight.
        seed: of weight and inputs.

    Raises:
        ExportError: LyCORIS does not take the layer's tensors.
    """
    kind, tensors = as_tensors(layer)
    needs = _needs_weight(kind, tensors)
    dtype = torch.float32 if "oft_blocks" in tensors else _precision(shape)
    # LyCORIS takes the base from the changed weight: in float32 that much of it is rounding
    rounding = 1e-6 if needs and dtype == torch.float32 else 0.0
    host, inputs = _host(shape, seed, dtype, needs)
    _lengthen(host, tensors)
    with torch.no_grad(), _quiet():
        before = host(inputs)
        found = _module(tensors, host, dtype)(inputs) - before
        difference = run_ours(host, wanted, inputs) - before
        size, error = float(difference.norm()), float((found - difference).norm())
    error = max(0.0, error - rounding * float(before.norm()))
    return error / size if size else float("inf" if error else 0.0)


def our_error(layer: Layer, wanted: Layer, shape: tuple[int, ...]) -> float:
    """Return the same of two layers that we run both."""
    kind, tensors = as_tensors(wanted)
    needs = _needs_weight(kind, tensors)
    host, inputs = _host(shape, 0, _precision(shape), needs)
    _lengthen(host, tensors)
    with torch.no_grad():
        before = host(inputs)
        found, difference = run_ours(host, layer, inputs) - before, run_ours(host, wanted, inputs) - before
    size, error = float(difference.norm()), float((found - difference).norm())
    return error / size if size else float("inf" if error else 0.0)


def run_ours(host: nn.Module, layer: Layer, inputs: Tensor) -> Tensor:
    """Return a module's outputs with a layer of ours on it, which is taken off again."""
    kind, tensors = as_tensors(layer)
    put_on(host, kind, {key: _wide(tensor, inputs.dtype) for key, tensor in tensors.items()}, None).eval()
    try:
        return host(inputs)
    finally:
        take_off(host)


def _needs_weight(kind: str, tensors: Mapping[str, Tensor]) -> bool:
    """Say whether an update depends on the weight; if not, one of zeros shows it best."""
    return layer_kinds()[kind].matrix is None or "dora_scale" in tensors


def _precision(shape: tuple[int, ...]) -> torch.dtype:
    """Return float64, or float32 for matrices of which some copies in float64 would not fit into memory."""
    return torch.float64 if math.prod(shape) <= _LARGE else torch.float32


def _host(shape: tuple[int, ...], seed: int, dtype: torch.dtype, random: bool) -> tuple[nn.Module, Tensor]:
    """Return a module with a random weight or one of zeros, and random inputs for it."""
    generator = torch.Generator().manual_seed(seed)
    if len(shape) == 1:
        # which norm it is makes no difference to the change of its weight
        host: Any = nn.LayerNorm(shape[0])
        return host.to(dtype).requires_grad_(False), torch.randn(PROBES, shape[0], generator=generator).to(dtype)
    if len(shape) == 2:
        host = nn.Linear(shape[1], shape[0], bias=False, device="meta")
        inputs = torch.randn(PROBES, shape[1], generator=generator)
    else:
        host = nn.Conv2d(shape[1], shape[0], (shape[2], shape[3]), bias=False, device="meta")
        inputs = torch.randn(2, shape[1], shape[2] + 1, shape[3] + 1, generator=generator)
    weight = torch.zeros(shape)
    if random:
        # a large matrix repeats itself: drawing it would take longer than all else
        numbers = torch.randn(min(weight.numel(), _DRAWN), generator=generator) * weight[0].numel() ** -0.5
        weight = numbers.repeat(-(-weight.numel() // numbers.numel()))[: weight.numel()].reshape(shape)
    host.weight = nn.Parameter(weight)
    return host.to(dtype).requires_grad_(False), inputs.to(dtype)


def _lengthen(host: Any, tensors: Mapping[str, Tensor]) -> None:
    """Give the weight's rows the lengths that the layer was trained to, or their change would drown all else."""
    if "dora_scale" in tensors:
        flat = host.weight.data.flatten(1)
        lengths = tensors["dora_scale"].to(flat.dtype).reshape(-1, 1)
        host.weight.data = (flat / flat.norm(dim=1, keepdim=True) * lengths).reshape(host.weight.shape)


def _module(tensors: Mapping[str, Tensor], host: nn.Module, dtype: torch.dtype) -> Any:
    """Make LyCORIS's module of a layer's tensors, found by LyCORIS from their names alone."""
    from lycoris.modules import get_module, make_module

    named = {f"layer.{key}": _wide(tensor, dtype) for key, tensor in tensors.items()}
    found: Any
    weights: Any
    found, weights = get_module(named, "layer")
    if found is None:
        raise ExportError(f"LyCORIS knows no kind of layer with {', '.join(sorted(tensors))}.")
    if "on_input" in tensors:
        # it passes two tensors to its own constructor from files, which takes one
        module: Any = found("layer", host, train_on_input=bool(tensors["on_input"]))
        module.weight.data.copy_(tensors["weight"])
    else:
        module = make_module(found, weights, "layer", host)
    return module.to(dtype).eval()


def _wide(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


@contextmanager
def _quiet() -> Generator[None]:
    """Keep what LyCORIS says of its defaults from the terminal, and its draws from everybody's generator."""
    log = logging.getLogger("LyCORIS")
    before, state = log.level, torch.get_rng_state()
    log.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        log.setLevel(before)
        torch.set_rng_state(state)
