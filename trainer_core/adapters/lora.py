"""LoRA through PEFT: y = W x + (alpha / rank) * B A x; A starts Kaiming-uniform, B zero (arXiv 2106.09685)."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainer_core.adapters.layers import LoraLayer
from trainer_core.errors import ConfigError
from trainer_core.types import Finding

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainer_core.config.groups import AdapterConfig

NAME = "default"
"""PEFT's name for the one adapter that is trained."""


def matched_modules(denoiser: nn.Module, targets: str, presets: Mapping[str, str]) -> list[str]:
    """Return the names of the linear layers and 1x1 convolutions that `targets` selects, in module order.

    Args:
        denoiser: the frozen base.
        targets: a preset's name, or a regex matched against the whole module name.
        presets: the family's named choices.

    Raises:
        ConfigError: the regex is broken or matches nothing.
    """
    from torch import nn

    def adaptable(module: nn.Module) -> bool:
        return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))

    try:
        pattern = re.compile(presets.get(targets, targets))
    except re.error as error:
        message = f"{targets!r} is neither a preset nor a regex ({error})."
        raise ConfigError([Finding("error", "adapter.targets", message, f"Use one of {', '.join(presets)}.")]) from None
    candidates = [name for name, module in denoiser.named_modules() if adaptable(module)]
    matched = [name for name in candidates if pattern.fullmatch(name)]
    if not matched:
        some = ", ".join(candidates[:3])
        fix = f"Use one of {', '.join(presets)}, or a regex for whole names such as {some}."
        raise ConfigError([Finding("error", "adapter.targets", f"{targets!r} matches none of {len(candidates)}.", fix)])
    return matched


def attach(denoiser: Any, config: AdapterConfig, presets: Mapping[str, str], seed: int) -> dict[str, nn.Parameter]:
    """Put a LoRA on the denoiser and return its float32 parameters by name, the only ones that require gradients.

    Args:
        denoiser: a diffusers denoiser (`add_adapter`), frozen here.
        config: rank, alpha, dropout and targets.
        presets: the family's named targets.
        seed: decides the initial A; B starts at zero.
    """
    import torch
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    denoiser.requires_grad_(False)
    names = matched_modules(denoiser, config.targets, presets)
    # Exact names, so that PEFT's suffix matching cannot select a layer outside the blocks.
    pattern = "|".join(re.escape(name) for name in names)
    torch.manual_seed(seed)
    lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=pattern)  # type: ignore[arg-type]
    denoiser.add_adapter(lora, adapter_name=NAME)
    cast_training_params(denoiser, torch.float32)
    return {name: parameter for name, parameter in denoiser.named_parameters() if parameter.requires_grad}


def state(denoiser: nn.Module) -> dict[str, Tensor]:
    """Return `<module>.lora_A.weight` [rank, in] and `<module>.lora_B.weight` [out, rank], float32, on the CPU."""
    from peft import get_peft_model_state_dict

    found: dict[str, Tensor] = get_peft_model_state_dict(denoiser, adapter_name=NAME)
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in sorted(found.items())}


def load_state(denoiser: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `state` returned, bit for bit."""
    import torch

    own: dict[str, torch.nn.Parameter] = {}
    for name, parameter in denoiser.named_parameters():
        if parameter.requires_grad:
            own[name.replace(f".{NAME}.", ".")] = parameter
    missing, unknown = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    assert not missing and not unknown, f"adapter state does not fit: missing {missing[:3]}, unknown {unknown[:3]}"
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])


@contextmanager
def disabled(denoiser: nn.Module) -> Generator[None]:
    """Let the denoiser be the base for a while; the adapter is back, and trained as before, when the block ends."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]
    for module in adapted:
        module.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for module in adapted:
            module.enable_adapters(enabled=True)


def layers(tensors: Mapping[str, Tensor], config: AdapterConfig) -> dict[str, LoraLayer]:
    """Return module -> layer of what `state` returned, for files to be written from."""
    end = ".lora_A.weight"
    names = [name.removesuffix(end) for name in tensors if name.endswith(end)]
    return {
        name: LoraLayer(tensors[f"{name}{end}"], tensors[f"{name}.lora_B.weight"], config.alpha)
        for name in sorted(names)
    }
