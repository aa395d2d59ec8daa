"""What the rest of the program does with an adapter: put it on a model, save it, load it, turn it off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from trainer_core.adapter_kinds import adapter_kinds
from trainer_core.adapters import lora, lycoris
from trainer_core.adapters.layers import Layer

if TYPE_CHECKING:
    from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig


class Attach(Protocol):
    """Puts an adapter on a model."""

    def __call__(  # noqa: PLR0913 - what an adapter depends on
        self,
        module: Any,
        config: AdapterConfig,
        options: AdapterOptionsConfig,
        presets: Mapping[str, str],
        seed: int,
        initial: Mapping[str, Layer] | None = None,
        /,
    ) -> dict[str, nn.Parameter]:
        """Return the float32 parameters by name, the only ones of the model that require gradients."""
        ...


@dataclass(frozen=True)
class Adapter:
    """What the rest of the house does with an adapter."""

    attach: Attach
    state: Callable[[nn.Module], dict[str, Tensor]]
    """Everything that the adapter holds, on the CPU."""
    load_state: Callable[[nn.Module, Mapping[str, Tensor]], None]
    """Puts it back, bit for bit."""
    layers: Callable[[Mapping[str, Tensor], AdapterConfig], dict[str, Layer]]
    """State -> layers by module, for files."""
    disabled: Callable[[nn.Module], AbstractContextManager[None]]
    """Lets the model be the base for a while."""


_PEFT = Adapter(lora.attach, lora.state, lora.load_state, lora.layers, lora.disabled)
_MODULES = Adapter(lycoris.attach, lycoris.state, lycoris.load_state, lycoris.layers, lycoris.disabled)
ADAPTERS: dict[str, Adapter] = {name: _PEFT if kind.with_peft else _MODULES for name, kind in adapter_kinds().items()}
"""`adapter.type` -> what puts it on a model."""
TEXT_ENCODERS = _PEFT
"""What text encoders carry, whatever the denoiser has: a plain LoRA."""


def draws(adapter: AdapterConfig) -> bool:
    """Say whether an adapter draws random numbers in a training step."""
    dropouts = adapter.dropout or adapter.rank_dropout or adapter.module_dropout
    return bool(dropouts) or adapter_kinds()[adapter.type].nested_ranks


def module_of(parameter: str) -> str:
    """Return the module that a parameter of an adapter belongs to, from the name that `attach` gave it."""
    module, mark, _ = parameter.partition(".lora_")
    return module if mark else lycoris.cut(parameter)[0]
