"""Start from a LoRA that was trained before."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer_core.adapter_kinds import layer_kinds
from trainer_core.adapter_kinds.kind import AdapterTarget
from trainer_core.adapter_kinds.low_rank import DOWN
from trainer_core.adapters.layers import Layer, LoraLayer, as_tensors
from trainer_core.errors import ConfigError
from trainer_core.types import Finding

if TYPE_CHECKING:
    from trainer_core.config.groups import AdapterConfig

log = logging.getLogger(__name__)


def checked(initial: Mapping[str, Layer] | None, names: Sequence[str]) -> Mapping[str, Layer]:
    """Return the layers to start from; modules without one start from zero, and the log says how many do.

    Raises:
        ConfigError: some belong to modules that are not adapted, so part of what was trained would be lost.
    """
    if initial is None:
        return {}
    if outside := [name for name in initial if name not in set(names)]:
        message = f"adapts {outside[0]} and {len(outside) - 1} more modules that the settings leave out."
        fix = "Widen adapter.targets, adapter.blocks, adapter.conv_rank or adapter.train_norm."
        raise ConfigError([Finding("error", "adapter.init_from", message, fix)])
    if fresh := len(names) - len(initial):
        log.info("adapter.init_from: %d modules go on, %d that are not in the file begin", len(initial), fresh)
    return initial


def convert_to_settings(
    name: str, kind: str, start: Mapping[str, Tensor], layer: Layer, config: AdapterConfig
) -> dict[str, Tensor]:
    """Return a layer's tensors in place of `start`, with the same update.

    With `rank_from_weights` its tensors and alpha are taken as they are. Otherwise their shapes must be those of the
    settings; where only alpha differs, the tensors are scaled so that the update stays the same.

    Raises:
        ConfigError: the layer is of another kind or size.
    """
    of_file, given = as_tensors(layer)
    given = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in given.items()}
    if "dora_scale" in start and "dora_scale" not in given and DOWN in given:
        # its magnitudes begin with those of the base: the update begins as LoRA's, up to their change
        given["dora_scale"] = start["dora_scale"]
    if of_file != (layer_kinds()[kind].in_files or kind) or _parts(given, config) != _parts(start, config):
        message = (
            f"holds {of_file} ({', '.join(sorted(given))}) for {name}, wanted {kind} ({', '.join(sorted(start))})."
        )
        fix = "Set adapter.type and adapter_options as they were when it was trained."
        raise ConfigError([Finding("error", "adapter.init_from", message, fix)])
    shapes = {key: tuple(tensor.shape) for key, tensor in given.items() if key in start}
    wrong = [key for key, shape in shapes.items() if shape != tuple(start[key].shape) and start[key].ndim]
    if wrong and not config.rank_from_weights:
        key = wrong[0]
        message = f"has {key} {list(shapes[key])} for {name}, wanted {list(start[key].shape)}."
        fix = "Set adapter.rank as it was when it was trained, or adapter.rank_from_weights: true."
        raise ConfigError([Finding("error", "adapter.init_from", message, fix)])
    if config.rank_from_weights or "alpha" not in start:
        return given
    return rescaled(kind, given, float(start["alpha"]))


def _parts(tensors: Mapping[str, Tensor], config: AdapterConfig) -> set[str]:
    """Return what a layer consists of; a LoKr of another rank may be whole where this one is not."""
    free = _KRONECKER if config.rank_from_weights else frozenset[str]()
    return set(tensors) - {"alpha"} - free


_KRONECKER = frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"})


def rescaled(kind: str, tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Return the same update with another alpha."""
    changed = dict(tensors)
    own = float(changed.get("alpha", torch.tensor(alpha)))
    if own != alpha:
        for group in layer_kinds()[kind].scaled:
            key = next(name for name in group if name in changed)
            changed[key] = changed[key] * (own / alpha)
    return changed | {"alpha": torch.tensor(alpha)}


def lora_factors(target: AdapterTarget, layer: Layer, config: AdapterConfig) -> LoraLayer:
    """Return a layer for PEFT's LoRA: of a target's rank and alpha, or its own with `rank_from_weights`.

    Raises:
        ConfigError: it is no plain LoRA, or of another rank.
    """
    if not isinstance(layer, LoraLayer) or layer.magnitude is not None:
        message = f"holds no plain LoRA for {target.name}."
        raise ConfigError([Finding("error", "adapter.init_from", message, "Set adapter.type to what it is.")])
    if config.rank_from_weights:
        return LoraLayer(layer.down.float(), layer.up.float(), layer.alpha)
    if layer.rank != target.rank:
        message = f"has rank {layer.rank} for {target.name}, wanted {target.rank}."
        fix = f"Set adapter.rank: {layer.rank}, or adapter.rank_from_weights: true."
        raise ConfigError([Finding("error", "adapter.init_from", message, fix)])
    return LoraLayer(layer.down.float(), layer.up.float() * (layer.alpha / target.alpha), target.alpha)
