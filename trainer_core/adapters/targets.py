"""Which modules of a model get an adapter, of which rank and alpha."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusers.models.normalization import RMSNorm
from torch import nn

from trainer_core.adapter_kinds import adapter_kinds
from trainer_core.adapter_kinds.kind import AdapterTarget
from trainer_core.errors import ConfigError
from trainer_core.types import Finding

if TYPE_CHECKING:
    from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig

log = logging.getLogger(__name__)

_IN_BLOCK = re.compile(r"(^|\.)\d+(\.|$)")
"""Blocks are numbered; what stands outside of them is not."""


def matched_modules(denoiser: nn.Module, targets: str, presets: Mapping[str, str]) -> list[str]:
    """Return the names of the linear layers and 1x1 convolutions that `targets` selects, in module order.

    Args:
        denoiser: the frozen base.
        targets: a preset's name, or a regex matched against the whole module name.
        presets: the family's named choices.

    Raises:
        ConfigError: the regex is broken or matches nothing.
    """
    pattern = _compiled(targets, presets)
    candidates = [name for name, module in denoiser.named_modules() if _is_small(module)]
    if matched := [name for name in candidates if pattern.fullmatch(name)]:
        return matched
    some = ", ".join(candidates[:3])
    fix = f"Use one of {', '.join(presets)}, or a regex for whole names such as {some}."
    raise ConfigError([Finding("error", "adapter.targets", f"{targets!r} matches none of {len(candidates)}.", fix)])


def larger_convolutions(denoiser: nn.Module, targets: str, presets: Mapping[str, str]) -> list[str]:
    """Return the names of the convolutions larger than 1x1 that may get an adapter, in module order.

    With a preset these are all inside blocks, with a regex those that it matches. Grouped ones have no adapter: each of
    their groups sees its own inputs.
    """
    pattern = None if targets in presets else _compiled(targets, presets)
    return [
        name
        for name, module in denoiser.named_modules()
        if _is_larger(module) and (_IN_BLOCK.search(name) if pattern is None else pattern.fullmatch(name))
    ]


def norms(denoiser: nn.Module) -> list[str]:
    """Return the names of the norms inside blocks that have a weight, in module order."""
    return [name for name, module in denoiser.named_modules() if is_norm(module) and _IN_BLOCK.search(name)]


def adapter_targets(
    denoiser: nn.Module, config: AdapterConfig, options: AdapterOptionsConfig, presets: Mapping[str, str]
) -> list[AdapterTarget]:
    """Return what gets an adapter, in module order.

    Raises:
        ConfigError: `targets` or a regex of `blocks` is broken or matches nothing, or everything is left out.
    """
    modules = dict(denoiser.named_modules())
    larger: list[str] = []
    if config.conv_rank or adapter_kinds()[config.type].adapts_convolutions:
        larger = larger_convolutions(denoiser, config.targets, presets)
    if config.conv_rank and not larger:
        log.warning("adapter.conv_rank: there is no convolution larger than 1x1 to adapt here")
    if larger and config.targets not in presets:
        # the regex may be for convolutions alone
        pattern = _compiled(config.targets, presets)
        small = [name for name, module in modules.items() if _is_small(module) and pattern.fullmatch(name)]
    else:
        small = matched_modules(denoiser, config.targets, presets)
    chosen = dict.fromkeys(small, (config.rank, config.alpha)) | dict.fromkeys(larger, _of_convolutions(config))
    chosen = _with_blocks(chosen, config)
    targets: list[AdapterTarget] = []
    for name in modules:
        rank, alpha = chosen.get(name, (0, 0.0))
        if rank:
            # alpha / sqrt(rank) is alpha * sqrt(rank) / rank
            alpha *= rank**0.5 if options.rslora else 1.0
            targets.append(AdapterTarget(name, _shape(modules[name]), rank, alpha))
    if not targets:
        fix = "Give some of them a rank, or leave `adapter.blocks` out."
        raise ConfigError([Finding("error", "adapter.blocks", "leaves out every module.", fix)])
    return targets


def _of_convolutions(config: AdapterConfig) -> tuple[int, float]:
    """Return rank and alpha of the larger convolutions."""
    if not config.conv_rank:
        return config.rank, config.conv_alpha or config.alpha
    return config.conv_rank, config.conv_alpha or float(config.conv_rank)


def _with_blocks(chosen: Mapping[str, tuple[int, float]], config: AdapterConfig) -> dict[str, tuple[int, float]]:
    """Return rank and alpha of each module after `adapter.blocks`."""
    patterns = {text: _block_pattern(text) for text in config.blocks}
    used: set[str] = set()
    sizes: dict[str, tuple[int, float]] = {}
    for name, size in chosen.items():
        fitting = [text for text, pattern in patterns.items() if pattern.fullmatch(name)]
        used.update(fitting)
        if fitting:
            block = config.blocks[fitting[0]]
            ratio = config.alpha / config.rank
            size = (block.rank, block.rank * ratio if block.alpha is None else block.alpha)
        sizes[name] = size
    if unused := [text for text in patterns if text not in used]:
        message = f"{unused[0]!r} matches none of the {len(chosen)} modules that are adapted."
        fix = f"They are matched whole, such as {next(iter(chosen))}."
        raise ConfigError([Finding("error", "adapter.blocks", message, fix)])
    return sizes


def _block_pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        message = f"{text!r} is not a valid regex ({error})."
        raise ConfigError(
            [Finding("error", "adapter.blocks", message, "Correct it; it is matched against the whole module name.")]
        ) from None


def _compiled(targets: str, presets: Mapping[str, str]) -> re.Pattern[str]:
    try:
        return re.compile(presets.get(targets, targets))
    except re.error as error:
        message = f"{targets!r} is neither a preset nor a regex ({error})."
        raise ConfigError([Finding("error", "adapter.targets", message, f"Use one of {', '.join(presets)}.")]) from None


def _is_small(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))


def _is_larger(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1) and module.groups == 1


def is_norm(module: nn.Module) -> bool:
    """Say whether a module is a norm with a weight."""
    if not isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm | RMSNorm):
        return False
    weight = getattr(module, "weight", None)
    return weight is not None and weight.ndim == 1


def _shape(module: Any) -> tuple[int, ...]:
    if isinstance(module, nn.Linear):
        # a quantised weight is stored in another shape
        return (module.out_features, module.in_features)
    return tuple(module.weight.shape)
