"""Attach, save and load adapters that are not PEFT's: every kind but plain LoRA."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainer_core.adapter_kinds import adapter_kinds, layer_kinds
from trainer_core.adapter_kinds.kind import AdapterTarget
from trainer_core.adapter_kinds.low_rank import DOWN, MID, UP
from trainer_core.adapter_kinds.simple_kinds import NORM
from trainer_core.adapters.adapter_module import adapters_of, begin, put_on
from trainer_core.adapters.initial import checked, convert_to_settings
from trainer_core.adapters.layers import Layer, as_layer
from trainer_core.adapters.targets import adapter_targets, norms
from trainer_core.diffusion.noise import derive_seed
from trainer_core.errors import ConfigError
from trainer_core.types import Finding

if TYPE_CHECKING:
    from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig

log = logging.getLogger(__name__)


def attach(
    module: Any,
    config: AdapterConfig,
    options: AdapterOptionsConfig,
    presets: Mapping[str, str],
    seed: int,
    initial: Mapping[str, Layer] | None = None,
) -> dict[str, nn.Parameter]:
    """Put adapters on a model and return their float32 parameters by name, the only ones that require gradients.

    Args:
        module: the frozen model.
        config: kind, sizes and targets.
        options: what only some kinds have.
        presets: the family's named targets.
        seed: decides, with a module's name, what its tensors start with.
        initial: layers to start from, by module name.

    Raises:
        ConfigError: a setting does not fit the model, or `initial` does not fit the settings.
    """
    module.requires_grad_(False)
    targets, of_type = adapter_targets(module, config, options, presets), adapter_kinds()[config.type]
    _check(module, targets, config, options)
    kinds = dict.fromkeys((target.name for target in targets), of_type.layers)
    if config.train_norm:
        extra = [AdapterTarget(name, tuple(module.get_submodule(name).weight.shape), 1, 1.0) for name in norms(module)]
        if not extra:
            log.warning("adapter.train_norm: there is no norm with a weight inside the blocks of this model")
        targets, kinds = targets + extra, kinds | dict.fromkeys((target.name for target in extra), NORM)
    given = checked(initial, [target.name for target in targets])
    for target in targets:
        generator = torch.Generator().manual_seed(derive_seed("adapter", (seed, target.name)))
        host, kind = module.get_submodule(target.name), kinds[target.name]
        tensors = begin(host, target, kind, config, options, generator)
        if target.name in given:
            tensors = convert_to_settings(target.name, kind, tensors, given[target.name], config)
        adapter = put_on(host, kind, tensors, config)
        adapter.block = (options.block_size or 4) if of_type.nested_ranks and kind != NORM else 0
    _warn_of_idle_dropout(module, config)
    return {
        f"{name}.{key}": tensor
        for name, adapter in adapters_of(module).items()
        for key, tensor in adapter.tensors().items()
        if isinstance(tensor, nn.Parameter)
    }


def state(module: nn.Module) -> dict[str, Tensor]:
    """Return `<module>.<end of the key>` -> tensor of everything that the adapters hold, on the CPU."""
    tensors = {
        f"{name}.{key}": tensor.detach().to("cpu", copy=True).contiguous()
        for name, adapter in adapters_of(module).items()
        for key, tensor in adapter.tensors().items()
    }
    return dict(sorted(tensors.items()))


def load_state(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `state` returned, bit for bit."""
    own = {
        f"{name}.{key}": tensor
        for name, adapter in adapters_of(module).items()
        for key, tensor in adapter.tensors().items()
    }
    missing, unknown = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    assert not missing and not unknown, f"adapter state does not fit: missing {missing[:3]}, unknown {unknown[:3]}"
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


@contextmanager
def disabled(module: nn.Module) -> Generator[None]:
    """Let the model be the base for a while; its adapters are back, and trained as before, when the block ends."""
    before = {adapter: adapter.strength for adapter in adapters_of(module).values()}
    for adapter in before:
        adapter.strength = 0.0
    try:
        yield
    finally:
        for adapter, strength in before.items():
            adapter.strength = strength


def layers(tensors: Mapping[str, Tensor], config: AdapterConfig) -> dict[str, Layer]:
    """Return module -> layer of what `state` returned, for files to be written from."""
    by_module: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, key = cut(name)
        by_module.setdefault(module, {})[key] = tensor
    kind = adapter_kinds()[config.type].layers
    kind = layer_kinds()[kind].in_files or kind
    return {name: as_layer(NORM if "w_norm" in own else kind, own) for name, own in sorted(by_module.items())}


def cut(name: str) -> tuple[str, str]:
    """Return (module, end of the key) of a name in a state."""
    for end in (UP, DOWN, MID, *_GLORA):
        if name.endswith(f".{end}"):
            return name.removesuffix(f".{end}"), end
    module, _, key = name.rpartition(".")
    return module, key


_GLORA = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")


def _check(
    module: nn.Module, targets: list[AdapterTarget], config: AdapterConfig, options: AdapterOptionsConfig
) -> None:
    kind = adapter_kinds()[config.type]
    if fits := layer_kinds()[kind.layers].outputs_fit:
        side = options.block_size
        if bad := [target for target in targets if not fits(target.shape[0], side or target.rank)]:
            name = "adapter_options.block_size" if side else "adapter.rank"
            sizes = [size for size in range(2, 129, 2) if all(fits(target.shape[0], size) for target in targets)]
            message = f"blocks of {side or bad[0].rank} do not fit the {bad[0].shape[0]} outputs of {bad[0].name}."
            fix = f"The least that fits all modules is {sizes[0]}." if sizes else "Take diag-oft, or fewer targets."
            raise ConfigError([Finding("error", name, message, fix)])
    quantised = [target.name for target in targets if _is_quantised(module.get_submodule(target.name))]
    if quantised and (kind.reads_weight or options.decompose):
        message = f"{config.type} computes with the base's weights, and those of {quantised[0]} are quantised."
        raise ConfigError([Finding("error", "adapter.type", message, "Take lora, loha or lokr, without decompose.")])


def _is_quantised(module: Any) -> bool:
    """Say whether a module's weight is not the matrix that it stands for."""
    weight = module.weight
    linear = getattr(module, "in_features", None)
    return not weight.is_floating_point() or (
        linear is not None and tuple(weight.shape) != (module.out_features, linear)
    )


def _warn_of_idle_dropout(module: nn.Module, config: AdapterConfig) -> None:
    """Say how many modules have no ranks that could be dropped."""
    adapters = adapters_of(module)
    ranks = {name: layer_kinds()[adapter.kind].rank for name, adapter in adapters.items()}
    without = [name for name, adapter in adapters.items() if not ((rank := ranks[name]) and rank(adapter.tensors()))]
    if config.rank_dropout and without:
        log.warning("adapter.rank_dropout: %d of %d modules have no ranks to drop", len(without), len(ranks))
