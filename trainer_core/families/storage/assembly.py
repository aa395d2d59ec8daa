"""Building a diffusers model from tensors that come one by one, each converted or quantised before the next comes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from trainer_core.errors import ModelError
from trainer_core.families.storage.quantised_linear import CODECS
from trainer_core.families.storage.replace import hollow_layers
from trainer_core.families.storage.schemes import DENSE, Storage
from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.families.spec import StoredLayers


def empty_model(cls: Any, folder: Path) -> Any:
    """Build a diffusers model without memory from the config in a folder."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        return cls.from_config(cls.load_config(str(folder)))


def fill(  # noqa: PLR0913 - a model, its weights, and what they become
    model: Any,
    tensors: Iterable[tuple[str, Tensor]],
    dtype: torch.dtype,
    device: torch.device,
    layers: StoredLayers | None = None,
    storage: Storage = DENSE,
) -> set[str]:
    """Give an empty model its weights.

    Args:
        model: of diffusers, without memory; where `storage` says so, its layers are replaced.
        tensors: name and value; only one of them is in memory beside what is kept.
        dtype: of the weights that stay dense, except where the class keeps float32.
        device: where the weights go.
        layers: which layers a scheme is for.
        storage: the scheme.

    Returns:
        The names of weights that `tensors` lack.

    Raises:
        ModelError: a tensor has another shape than the config says.
    """
    kept = tuple(model._keep_in_fp32_modules or ())
    hollow = {} if layers is None or storage.dense else hollow_layers(model, layers, storage)
    wanted = set(model.state_dict()) - {f"{path}.weight" for path in hollow}
    missing = set(wanted)
    for given, tensor in tensors:
        name = given if given in wanted else _renamed(model, given, tensor)
        path, _, leaf = name.rpartition(".")
        if path in hollow and leaf == "weight":
            _check(name, tensor, (hollow[path].out_features, hollow[path].in_features))
            hollow[path].give(CODECS[storage.scheme].encode(_readable(tensor.to(device), dtype)))
            missing -= {f"{path}.{part}" for part in hollow[path].stored}
        elif name in wanted:
            _give(model.get_submodule(path), leaf, _converted(tensor, name, dtype, kept).to(device), name)
            missing.discard(name)
    return missing


def _readable(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a weight in a dtype that schemes read: files may hold others, such as plain 8-bit floats."""
    return tensor if tensor.dtype in (torch.float32, torch.bfloat16, torch.float16) else tensor.to(dtype)


def _give(owner: Any, leaf: str, tensor: Tensor, name: str) -> None:
    if leaf in owner._parameters:
        _check(name, tensor, tuple(owner._parameters[leaf].shape))
        owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    else:
        owner._buffers[leaf] = tensor


def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ModelError(
            f"{name} is {list(tensor.shape)}, but config.json makes it {list(shape)}. Copy the model again."
        )


def _renamed(model: Any, name: str, tensor: Tensor) -> str:
    """Return the name that diffusers has now for a weight of an old file."""
    found: dict[str, Tensor] = {name: tensor}
    model._fix_state_dict_keys_on_load(found)
    return next(iter(found))


def _converted(tensor: Tensor, name: str, dtype: torch.dtype, kept: tuple[str, ...]) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.float32 if any(part in name.split(".") for part in kept) else dtype)
