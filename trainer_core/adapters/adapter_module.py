"""Adapters of every kind but plain LoRA: a module beside each adapted one, which adds to its output.

The base's own modules, names and weights stay untouched: a forward hook adds the kind's update. It is computed in
float32 from float32 tensors and added last, so that an update which is small beside the weight is not rounded away,
whatever the base's precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer_core.adapter_kinds import adapter_kinds, layer_kinds
from trainer_core.adapter_kinds.delta import magnitudes, output_delta
from trainer_core.adapter_kinds.kind import AdapterTarget, Call
from trainer_core.adapter_kinds.low_rank import truncated
from trainer_core.adapter_kinds.simple_kinds import NORM
from trainer_core.adapters.random_keep import drawn_to_keep
from trainer_core.families.storage.quantised_linear import QuantisedLinear

if TYPE_CHECKING:
    from trainer_core.config.groups import AdapterConfig

CHILD = "lora_assets_adapter"
"""Name of the adapter among the children of the module that it changes."""


class AdapterModule(nn.Module):
    """An adapter of one module: its tensors, and what it adds to the module's output."""

    def __init__(self, host: nn.Module, kind: str, tensors: Mapping[str, Tensor], config: AdapterConfig | None) -> None:
        """Hold the tensors of `kind`, trained unless `config` is None."""
        super().__init__()
        # decided once: reading a number from a GPU at every step would wait for it
        runs_as = layer_kinds()[kind].runs_as
        self.kind = runs_as(tensors) if runs_as else kind
        self.keys = {key.replace(".", "_"): key for key in tensors}
        self.strength = 1.0
        self.dropout, self.rank_dropout, self.module_dropout = (
            (config.dropout, config.rank_dropout, config.module_dropout) if config else (0.0, 0.0, 0.0)
        )
        self.block = 0
        """DyLoRA's ranks that are trained together; 0 for other kinds."""
        device = next(host.parameters()).device
        for attribute, key in self.keys.items():
            tensor = tensors[key].to(device, copy=True)
            if config is None or key in layer_kinds()[kind].fixed:
                self.register_buffer(attribute, tensor)
            else:
                self.register_parameter(attribute, nn.Parameter(tensor.float()))

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors by their key's end."""
        return {key: getattr(self, attribute) for attribute, key in self.keys.items()}

    def forward(self, host: Any, x: Tensor, output: Tensor) -> Tensor:
        """Return the module's output with the update in it.

        Args:
            host: the adapted module.
            x: what it was given.
            output: what it returned.
        """
        if self.strength == 0.0:
            return output
        update = self._norm_delta(host, x) if self.kind == NORM else self._delta(host, x, output)
        if self.training and self.module_dropout:
            # Multiplied, not skipped: every process has a gradient for every parameter, at every step.
            update = update * drawn_to_keep((), self.module_dropout, update)
        if self.strength != 1.0:
            update = update * self.strength
        return output + update.to(output.dtype)

    def _delta(self, host: Any, x: Tensor, output: Tensor) -> Tensor:
        tensors = self.tensors()
        if self.training and self.block:
            blocks = layer_kinds()[self.kind].rank
            assert blocks is not None
            draw = int(torch.randint(blocks(tensors) // self.block, (1,)))
            tensors = truncated(tensors, self.block, draw)
        dtype = next(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
        bias = getattr(host, "bias", None)
        strides = _strides(host)
        z = output if bias is None else output - (bias[:, None, None] if strides else bias)
        dropped = functional.dropout(x.to(dtype), self.dropout, self.training) if self.dropout else x.to(dtype)
        # the shape of the weight alone is no reason to make an 8- or 4-bit one a matrix
        shape = () if strides else (host.out_features, host.in_features)
        apply = partial(_apply, host)
        call = Call(dropped, z, partial(_weight_of, host, x.dtype), apply, strides, shape=shape)
        return output_delta(layer_kinds()[self.kind], tensors, _with_keep(call, self._keep(tensors, call.x)))

    def _keep(self, tensors: Mapping[str, Tensor], like: Tensor) -> Tensor | None:
        ranks = layer_kinds()[self.kind].rank
        if not (self.training and self.rank_dropout and ranks and (count := ranks(tensors))):
            return None
        return drawn_to_keep((count,), self.rank_dropout, like).float() / (1 - self.rank_dropout)

    def _norm_delta(self, host: Any, x: Tensor) -> Tensor:
        """Return what the changes of a norm's weight and bias add: a norm is linear in both."""
        tensors = self.tensors()
        weight, bias = tensors["w_norm"], tensors.get("b_norm")
        x = x.to(weight.dtype)
        if isinstance(host, nn.GroupNorm):
            # torch's backward pass of a weight alone, without its input's gradient, crashes here on CPUs
            normed = functional.group_norm(x, host.num_groups, eps=host.eps).movedim(1, -1)
        elif isinstance(host, nn.LayerNorm):
            normed = functional.layer_norm(x, weight.shape, eps=host.eps)
        else:
            normed = functional.rms_norm(x, weight.shape, eps=host.eps)
        changed = normed * weight if bias is None else normed * weight + bias
        return changed.movedim(-1, 1) if isinstance(host, nn.GroupNorm) else changed


def _with_keep(call: Call, keep: Tensor | None) -> Call:
    return call if keep is None else replace(call, keep=keep)


def _weight_of(host: Any, dtype: torch.dtype) -> Tensor:
    return host.matrix(dtype) if isinstance(host, QuantisedLinear) else host.weight


def _strides(host: nn.Module) -> dict[str, object]:
    if not isinstance(host, nn.Conv2d):
        return {}
    return {"stride": host.stride, "padding": host.padding, "dilation": host.dilation}


def _apply(host: Any, x: Tensor, weight: Tensor) -> Tensor:
    if isinstance(host, nn.Conv2d):
        return functional.conv2d(x, weight, None, host.stride, host.padding, host.dilation, host.groups)
    return functional.linear(x, weight)


def _hook(host: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor:
    return getattr(host, CHILD)(host, given[0], output)


def put_on(host: nn.Module, kind: str, tensors: Mapping[str, Tensor], config: AdapterConfig | None) -> AdapterModule:
    """Give a module an adapter: trained with `config`, or fixed where it is None."""
    adapter = AdapterModule(host, kind, tensors, config)
    host.add_module(CHILD, adapter)
    adapter.handle = host.register_forward_hook(_hook)  # type: ignore[assignment]
    return adapter


def take_off(model: nn.Module) -> None:
    """Remove every adapter of a model that `put_on` gave to one of its modules."""
    for name, adapter in adapters_of(model).items():
        adapter.handle.remove()  # type: ignore[operator, union-attr]
        delattr(model.get_submodule(name), CHILD)


def adapters_of(model: nn.Module) -> dict[str, AdapterModule]:
    """Return name of the adapted module -> its adapter, in module order."""
    return {
        name.removesuffix(CHILD).removesuffix("."): module
        for name, module in model.named_modules()
        if isinstance(module, AdapterModule)
    }


def begin(
    host: Any, target: AdapterTarget, kind: str, config: AdapterConfig, options: Any, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the tensors that a target starts with: an update of zero."""
    tensors = layer_kinds()[kind].start(target, options, generator)
    if kind == NORM and getattr(host, "bias", None) is not None:
        tensors["b_norm"] = torch.zeros(target.shape)
    if kind != NORM and (options.decompose or adapter_kinds()[config.type].magnitudes):
        found = magnitudes(host.weight.float())
        # A model without weights, as memory is planned with, has no magnitudes but their shape.
        tensors["dora_scale"] = torch.ones(found.shape) if found.is_meta else found.cpu()
    return tensors
