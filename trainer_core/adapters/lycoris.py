"""Attach, save and load adapters that are not PEFT's: every kind but plain LoRA."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainer_core.adapters.initial import checked, fitted
from trainer_core.adapters.kinds import KINDS, Place
from trainer_core.adapters.kinds.low_rank import DOWN, MID, UP
from trainer_core.adapters.kinds.oft import butterfly_blocks, clamped
from trainer_core.adapters.layers import Layer, LoraLayer, LycorisLayer
from trainer_core.adapters.settings import NEEDS_WEIGHT
from trainer_core.adapters.targets import norms, places
from trainer_core.errors import ConfigError
from trainer_core.types import Finding

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig

log = logging.getLogger(__name__)

_IN_FILES = {"dora": "locon", "dylora": "locon"}
"""Kind of adapter -> kind of its layers."""


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
    import torch

    from trainer_core.adapters.adapter_module import adapters_of, begin, put_on
    from trainer_core.diffusion.noise import derive_seed

    module.requires_grad_(False)
    found = places(module, config, options, presets)
    _check(module, found, config, options)
    kinds = dict.fromkeys((place.name for place in found), _IN_FILES.get(config.type, config.type))
    if config.train_norm:
        extra = [Place(name, tuple(module.get_submodule(name).weight.shape), 1, 1.0) for name in norms(module)]
        if not extra:
            log.warning("adapter.train_norm: there is no norm with a weight inside the blocks here")
        found, kinds = found + extra, kinds | dict.fromkeys((place.name for place in extra), "norm")
    given = checked(initial, [place.name for place in found])
    for place in found:
        generator = torch.Generator().manual_seed(derive_seed("adapter", (seed, place.name)))
        host, kind = module.get_submodule(place.name), kinds[place.name]
        tensors = begin(host, place, kind, config, options, generator)
        if place.name in given:
            tensors = fitted(place.name, kind, tensors, given[place.name], config)
        adapter = put_on(host, kind, tensors, config)
        adapter.block = (options.block_size or 4) if config.type == "dylora" and kind != "norm" else 0
    _tell_idle_dropout(module, config)
    return {
        f"{name}.{key}": tensor
        for name, adapter in adapters_of(module).items()
        for key, tensor in adapter.tensors().items()
        if isinstance(tensor, torch.nn.Parameter)
    }


def state(module: nn.Module) -> dict[str, Tensor]:
    """Return `<module>.<end of the key>` -> tensor of everything that the adapters hold, on the CPU."""
    from trainer_core.adapters.adapter_module import adapters_of

    found = {
        f"{name}.{key}": tensor.detach().to("cpu", copy=True).contiguous()
        for name, adapter in adapters_of(module).items()
        for key, tensor in adapter.tensors().items()
    }
    return dict(sorted(found.items()))


def load_state(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `state` returned, bit for bit."""
    import torch

    from trainer_core.adapters.adapter_module import adapters_of

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
    from trainer_core.adapters.adapter_module import adapters_of

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
    kind = _IN_FILES.get(config.type, config.type)
    return {name: as_layer("norm" if "w_norm" in own else kind, own) for name, own in sorted(by_module.items())}


def as_layer(kind: str, tensors: Mapping[str, Tensor]) -> Layer:
    """Return tensors as files hold them; a product of two matrices as what it is."""
    if kind == "locon" and MID not in tensors:
        magnitude = tensors["dora_scale"].flatten() if "dora_scale" in tensors else None
        return LoraLayer(tensors[DOWN], tensors[UP], float(tensors["alpha"]), magnitude)
    return LycorisLayer(kind, clamped(tensors) if "oft_blocks" in tensors else dict(tensors))


def as_tensors(layer: Layer) -> tuple[str, dict[str, Tensor]]:
    """Return (kind, tensors) of a layer, as adapters hold them."""
    import torch

    if isinstance(layer, LycorisLayer):
        return layer.kind, dict(layer.tensors)
    found = {DOWN: layer.down, UP: layer.up, "alpha": torch.tensor(layer.alpha, dtype=torch.float32)}
    if layer.magnitude is not None:
        found["dora_scale"] = layer.magnitude.reshape(-1, *[1] * (layer.up.ndim - 1))
    return "locon", found


def cut(name: str) -> tuple[str, str]:
    """Return (module, end of the key) of a name in a state."""
    for end in (UP, DOWN, MID, *_GLORA):
        if name.endswith(f".{end}"):
            return name.removesuffix(f".{end}"), end
    module, _, key = name.rpartition(".")
    return module, key


_GLORA = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")


def _check(module: nn.Module, found: list[Place], config: AdapterConfig, options: AdapterOptionsConfig) -> None:
    if config.type == "boft":
        side = options.block_size
        bad = [place for place in found if butterfly_blocks(place.shape[0], side or place.rank) is None]
        if bad:
            name = "adapter_options.block_size" if side else "adapter.rank"
            fits = [one for one in range(2, 129, 2) if all(butterfly_blocks(place.shape[0], one) for place in found)]
            message = f"no butterfly of {side or bad[0].rank} fits the {bad[0].shape[0]} outputs of {bad[0].name}."
            fix = f"The least that fits all modules is {fits[0]}." if fits else "Take diag-oft, or fewer targets."
            raise ConfigError([Finding("error", name, message, fix)])
    quantised = [place.name for place in found if _is_quantised(module.get_submodule(place.name))]
    if quantised and (config.type in NEEDS_WEIGHT or options.decompose):
        message = f"{config.type} computes with the base's weights, and those of {quantised[0]} are quantised."
        raise ConfigError([Finding("error", "adapter.type", message, "Take lora, loha or lokr, without decompose.")])


def _is_quantised(module: Any) -> bool:
    """Say whether a module's weight is not the matrix that it stands for."""
    weight = module.weight
    linear = getattr(module, "in_features", None)
    return not weight.is_floating_point() or (
        linear is not None and tuple(weight.shape) != (module.out_features, linear)
    )


def _tell_idle_dropout(module: nn.Module, config: AdapterConfig) -> None:
    """Say how many modules have no ranks that could be dropped."""
    from trainer_core.adapters.adapter_module import adapters_of

    ranks = {name: KINDS[one.kind].rank for name, one in adapters_of(module).items()}
    without = [name for name, one in adapters_of(module).items() if not ((rank := ranks[name]) and rank(one.tensors()))]
    if config.rank_dropout and without:
        log.warning("adapter.rank_dropout: %d of %d modules have no ranks to drop", len(without), len(ranks))
