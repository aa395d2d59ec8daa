"""The state of any optimizer, saved and restored bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor


def optimizer_state(optimizer: Any) -> dict[str, Any]:
    """Return everything that the next step needs: `state_dict`, and numbers that some classes keep beside it."""
    inner = _unwrapped(optimizer)
    return {**inner.state_dict(), "attributes": _numbers(inner)}


def restore_optimizer(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Put back what `optimizer_state` returned, bit for bit, on the devices of the parameters."""
    inner = _unwrapped(optimizer)
    inner.load_state_dict({"state": state["state"], "param_groups": state["param_groups"]})
    parameters = [parameter for group in inner.param_groups for parameter in group["params"]]
    for index, saved in state["state"].items():
        if not isinstance(index, int):
            # Some classes keep numbers of their own among the parameters' state; torch leaves those as they were saved.
            continue
        own = inner.state[parameters[index]]
        # torch casts floating-point state to the parameters' dtype on loading.
        own.update({name: _as_saved(own[name], value) for name, value in saved.items() if name in own})
    for group in inner.param_groups:
        device = group["params"][0].device
        group.update({name: value.to(device) for name, value in group.items() if isinstance(value, Tensor)})
    for name, value in state["attributes"].items():
        setattr(inner, name, value)


def _as_saved(own: Any, saved: Any) -> Any:
    if isinstance(saved, Tensor):
        return own if own.dtype == saved.dtype else saved.to(own.device)
    if isinstance(saved, list | tuple):
        return type(saved)(_as_saved(mine, item) for mine, item in zip(own, saved, strict=True))
    if isinstance(saved, Mapping):
        return {name: _as_saved(own[name], item) for name, item in saved.items()}
    return saved


def _numbers(optimizer: Any) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(optimizer).items()
        if not name.startswith("_") and isinstance(value, bool | int | float)
    }


def _unwrapped(optimizer: Any) -> Any:
    """Return the optimizer inside accelerate's wrapper."""
    return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
