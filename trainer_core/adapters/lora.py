"""LoRA through PEFT: y = W x + (alpha / rank) * B A x; A starts Kaiming-uniform, B zero (arXiv 2106.09685)."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from diffusers.training_utils import cast_training_params
from torch import Tensor, nn

from trainer_core.adapter_kinds.kind import AdapterTarget
from trainer_core.adapters.initial import checked, lora_factors
from trainer_core.adapters.layers import Layer, LoraLayer
from trainer_core.adapters.random_keep import drawn_to_keep
from trainer_core.adapters.targets import adapter_targets, matched_modules

if TYPE_CHECKING:
    from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig

__all__ = ["attach", "layers", "load_state", "matched_modules", "state"]

NAME = "default"
"""PEFT's name for the one adapter that is trained."""
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def attach(
    denoiser: Any,
    config: AdapterConfig,
    options: AdapterOptionsConfig,
    presets: Mapping[str, str],
    seed: int,
    initial: Mapping[str, Layer] | None = None,
) -> dict[str, nn.Parameter]:
    """Put a LoRA on the denoiser and return its float32 parameters by name, the only ones that require gradients.

    Args:
        denoiser: a diffusers denoiser (`add_adapter`), frozen here.
        config: sizes, dropouts and targets.
        options: `rslora`.
        presets: the family's named targets.
        seed: decides the initial A; B starts at zero.
        initial: layers to start from, by module name.

    Raises:
        ConfigError: a setting does not fit the model, or `initial` does not fit the settings.
    """
    from peft import LoraConfig

    denoiser.requires_grad_(False)
    targets = adapter_targets(denoiser, config, options, presets)
    given = checked(initial, [target.name for target in targets])
    starts = {
        target.name: lora_factors(target, given[target.name], config) for target in targets if target.name in given
    }
    if config.rank_from_weights:
        targets = [_sized(target, starts.get(target.name)) for target in targets]
    # Exact names, so that PEFT's suffix matching cannot select a layer outside the blocks.
    pattern = "|".join(re.escape(target.name) for target in targets)
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=pattern,
        rank_pattern={f"^{re.escape(it.name)}": it.rank for it in targets if it.rank != config.rank},
        alpha_pattern={f"^{re.escape(it.name)}": it.alpha for it in targets if it.alpha != config.alpha},
    )
    denoiser.add_adapter(lora, adapter_name=NAME)
    cast_training_params(denoiser, torch.float32)
    _begin_with(denoiser, starts)
    _drop(denoiser, config)
    return {name: parameter for name, parameter in denoiser.named_parameters() if parameter.requires_grad}


def leave_inputs_uncast(model: nn.Module) -> None:
    """Let PEFT's layers take their inputs as they are, where a model runs under autocast or in float32 throughout.

    By default they widen an input to float32, and autocast narrows it again: a second copy of each input of an adapted
    layer is kept for the backward pass (3.3 GiB for FLUX.1 at 1024 px). The bits of outputs and gradients are the same.
    """
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False  # type: ignore[assignment]


def state(denoiser: nn.Module) -> dict[str, Tensor]:
    """Return `<module>.lora_A.weight` [rank, in] and `<module>.lora_B.weight` [out, rank], float32, on the CPU.

    Where modules differ in alpha there is also `<module>.alpha`.
    """
    from peft import get_peft_model_state_dict

    of_peft: dict[str, Tensor] = get_peft_model_state_dict(denoiser, adapter_name=NAME)
    whole = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in sorted(of_peft.items())}
    return whole | _alphas(denoiser)


def load_state(denoiser: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `state` returned, bit for bit."""
    own: dict[str, nn.Parameter] = {}
    for name, parameter in denoiser.named_parameters():
        if parameter.requires_grad:
            own[name.replace(f".{NAME}.", ".")] = parameter
    given = {name: tensor for name, tensor in tensors.items() if not name.endswith(".alpha")}
    missing, unknown = sorted(set(own) - set(given)), sorted(set(given) - set(own))
    assert not missing and not unknown, f"adapter state does not fit: missing {missing[:3]}, unknown {unknown[:3]}"
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(given[name])


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


def layers(tensors: Mapping[str, Tensor], config: AdapterConfig) -> dict[str, Layer]:
    """Return module -> layer of what `state` returned, for files to be written from."""
    names = sorted(name.removesuffix(_DOWN) for name in tensors if name.endswith(_DOWN))
    alphas = {name: float(tensors[key]) if (key := f"{name}.alpha") in tensors else config.alpha for name in names}
    return {name: LoraLayer(tensors[f"{name}{_DOWN}"], tensors[f"{name}{_UP}"], alphas[name]) for name in names}


def _sized(target: AdapterTarget, start: LoraLayer | None) -> AdapterTarget:
    return target if start is None else replace(target, rank=start.rank, alpha=start.alpha)


def _tuned(denoiser: nn.Module) -> dict[str, Any]:
    """Return name -> PEFT's layer."""
    modules: dict[str, Any] = dict(denoiser.named_modules())
    return {name: module for name, module in modules.items() if NAME in getattr(module, "lora_A", ())}


def _alphas(denoiser: nn.Module) -> dict[str, Tensor]:
    with_peft: Any = denoiser
    if not with_peft.peft_config[NAME].alpha_pattern:
        return {}
    alphas = {name: module.scaling[NAME] * module.r[NAME] for name, module in _tuned(denoiser).items()}
    return {f"{name}.alpha": torch.tensor(alpha, dtype=torch.float64) for name, alpha in sorted(alphas.items())}


def _begin_with(denoiser: nn.Module, starts: Mapping[str, LoraLayer]) -> None:
    tuned = _tuned(denoiser) if starts else dict[str, Any]()
    with torch.no_grad():
        for name, layer in starts.items():
            down, up = tuned[name].lora_A[NAME].weight, tuned[name].lora_B[NAME].weight
            down.copy_(layer.down.reshape(down.shape))
            up.copy_(layer.up.reshape(up.shape))


def _drop(denoiser: nn.Module, config: AdapterConfig) -> None:
    """Add what PEFT lacks: ranks, and whole modules, that are left out of a training step."""

    def some_ranks(module: Any, _: Any, output: Tensor) -> Tensor:
        if not module.training:
            return output
        kept = drawn_to_keep((module.weight.shape[0],), config.rank_dropout, output)
        kept = kept / (1 - config.rank_dropout)
        return output * (kept[:, None, None] if output.ndim == 4 and module.weight.ndim == 4 else kept)

    def whole(module: Any, _: Any, output: Tensor) -> Tensor:
        if not module.training:
            return output
        # Multiplied, not skipped: every process has a gradient for every parameter, at every step.
        return output * drawn_to_keep((), config.module_dropout, output)

    for module in _tuned(denoiser).values():
        if config.rank_dropout:
            module.lora_A[NAME].register_forward_hook(some_ranks)
        if config.module_dropout:
            module.lora_B[NAME].register_forward_hook(whole)
