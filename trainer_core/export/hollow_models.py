"""A base model's modules without its weights: built from its configs, at the cost of a few megabytes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from torch import nn

from trainer_core.adapters.targets import is_norm
from trainer_core.errors import ModelError
from trainer_core.export.module_names import Modules, Shape
from trainer_core.families.spec import FamilySpec


def hollow_denoiser(spec: FamilySpec, config: Mapping[str, Any]) -> nn.Module:
    """Build a denoiser whose every weight is one number seen as a whole matrix: right in shape, free of memory.

    Adapters can be loaded into it as into a real one, which a model on the meta device would not keep.

    Args:
        spec: the family.
        config: what the `config.json` of the denoiser holds.
    """
    cls = getattr(importlib.import_module("diffusers"), spec.components[spec.denoiser].loader)
    with init_empty_weights():
        model = cls.from_config(dict(config))
    return _hollowed(model)


def _hollowed(model: nn.Module) -> nn.Module:
    """Give every parameter of a model on the meta device one number seen as a whole matrix."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            number = torch.zeros((), dtype=torch.float32)
            setattr(module, name, torch.nn.Parameter(number.expand(parameter.shape), requires_grad=False))
    return model.eval()


def modules_of(spec: FamilySpec, models: Mapping[str, nn.Module]) -> Modules:
    """Return the modules of some components.

    Args:
        spec: the family.
        models: component -> model, hollow or real; of a model that carries an adapter, take it before.
    """
    shapes: dict[str, Shape] = {}
    for component, model in models.items():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d) or is_norm(module):
                weight: Any = module.weight
                shapes[f"{component}.{name}"] = tuple(weight.shape)
    return Modules(spec, shapes)


def hollow_text_encoders(spec: FamilySpec, root: Path) -> dict[str, nn.Module]:
    """Build the text encoders of a diffusers-format folder, hollow; those without a config are left out."""
    found: dict[str, nn.Module] = {}
    for name, component in spec.components.items():
        if component.library != "transformers" or component.kind != "model":
            continue
        if not (root / name / "config.json").is_file():
            continue
        cls: Any = getattr(transformers, component.loader)
        try:
            config = cls.config_class.from_pretrained(str(root / name), local_files_only=True)
        except (OSError, ValueError) as error:
            raise ModelError(f"{root / name}/config.json: cannot be read ({error}). Copy the model again.") from error
        with init_empty_weights():
            found[name] = cls(config)
    return {name: _hollowed(model) for name, model in found.items()}
