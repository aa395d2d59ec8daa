"""Read a LoRA file as a user's diffusers does, into a model without weights."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from safetensors import safe_open

from trainer_core.adapters.layers import Layer, LoraLayer, LycorisLayer
from trainer_core.errors import ExportError
from trainer_core.export.hollow_models import hollow_denoiser
from trainer_core.families.shared import loading

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.families.spec import FamilySpec

_NAME = "proof"
_LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")


def load_with_diffusers(
    path: Path, spec: FamilySpec, config: Mapping[str, Any], encoders: Mapping[str, Any] | None = None
) -> dict[str, Layer]:
    """Return the denoiser's layers, and those of `encoders`, as the family's pipeline class loads them, by name.

    The pipeline's own `lora_state_dict` and `load_lora_into_...` run, which is all that `load_lora_weights` does for a
    denoiser. They load into one that is built from its config and whose weights take no memory: what is held is the
    LoRA alone.

    Args:
        path: the file.
        spec: the family.
        config: the denoiser's config.
        encoders: hollow text encoders that the file has layers for.

    Raises:
        ExportError: diffusers leaves keys of the file out, without a word.
    """
    denoiser: Any = hollow_denoiser(spec, config)
    encoders = encoders or {}
    load_into(path, spec, denoiser, encoders)
    layers = _layers(denoiser, spec.denoiser)
    return dict(layers + [one for name, encoder in encoders.items() for one in _layers(encoder, name)])


def load_into(path: Path, spec: FamilySpec, denoiser: Any, encoders: Mapping[str, Any]) -> None:
    """Load a file into a denoiser and text encoders, in whatever keys diffusers reads for the family.

    Args:
        path: the file.
        spec: the family.
        denoiser: of the family.
        encoders: text encoders by name, of those that the file has layers for.

    Raises:
        ExportError: diffusers leaves keys of the file out, without a word.
    """
    pipeline: Any = getattr(diffusers, spec.pipeline)
    with _quiet():
        found = pipeline.lora_state_dict(str(path.parent), weight_name=path.name, **_asked(pipeline, denoiser))
        state, metadata, alphas = found[0], found[-1], found[1] if len(found) == 3 else None
        if left := [key for key in state if not key.startswith((f"{spec.denoiser}.", "text_encoder"))]:
            raise ExportError(
                f"{path.name}: diffusers ignores {left[0]} and {len(left) - 1} more keys. Give another format."
            )
        arguments = {"metadata": metadata, "adapter_name": _NAME}
        getattr(pipeline, f"load_lora_into_{spec.denoiser}")(
            state,
            **{spec.denoiser: denoiser},
            **({"network_alphas": alphas} if len(found) == 3 else {}),
            **arguments,
            low_cpu_mem_usage=True,
        )
        for name, encoder in encoders.items():
            pipeline.load_lora_into_text_encoder(state, alphas, encoder, prefix=name, **arguments)


def text_encoders_in(path: Path, spec: FamilySpec) -> list[str]:
    """Return the text encoders that a file has layers for."""
    with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
        keys: list[str] = list(file.keys())
    starts = {name: (f"{name}.", f"{spec.lora.text_encoders.get(name, name)}_") for name in spec.text.lora}
    return [name for name, start in starts.items() if any(key.startswith(start) for key in keys)]


def _asked(pipeline: Any, denoiser: Any) -> dict[str, Any]:
    """Return the arguments with which `load_lora_weights` calls `lora_state_dict`."""
    asked = {"return_lora_metadata": True, "unet_config": denoiser.config}
    if "return_alphas" in inspect.signature(pipeline.lora_state_dict).parameters:
        asked["return_alphas"] = True
    return asked


def _layers(denoiser: Any, component: str) -> list[tuple[str, Layer]]:
    found: list[tuple[str, Layer]] = []
    for name, module in denoiser.named_modules():
        if _NAME in getattr(module, "lora_A", {}):
            found.append((f"{component}.{name}", _lora(module)))
        elif _NAME in getattr(module, "r", {}) and hasattr(module, "lokr_w1"):
            found.append((f"{component}.{name}", _lokr(module)))
        if found and any(tensor.is_meta for tensor in _tensors(found[-1][1])):
            raise ExportError(
                f"{found[-1][0]}: diffusers wants weights for this module, and the file has none. Export it again."
            )
    return found


def _lora(module: Any) -> LoraLayer:
    down, up = module.lora_A[_NAME].weight.detach(), module.lora_B[_NAME].weight.detach()
    magnitude = None
    if _NAME in module.lora_magnitude_vector:
        magnitude = module.lora_magnitude_vector[_NAME].weight.detach().flatten()
    return LoraLayer(down, up, module.scaling[_NAME] * down.shape[0], magnitude)


def _lokr(module: Any) -> LycorisLayer:
    tensors = {end: held[_NAME].detach() for end in _LOKR if _NAME in (held := getattr(module, end))}
    rank = tensors["lokr_w2_b"].shape[0] if "lokr_w2_b" in tensors else 1
    if "lokr_w2_b" not in tensors:
        tensors["lokr_w1"] = tensors["lokr_w1"] * module.scaling[_NAME]
    return LycorisLayer("lokr", tensors | {"alpha": torch.tensor(float(module.scaling[_NAME] * rank))})


def _tensors(layer: Layer) -> list[Tensor]:
    if isinstance(layer, LoraLayer):
        return [layer.down, layer.up] + ([] if layer.magnitude is None else [layer.magnitude])
    return list(layer.tensors.values())


@contextmanager
def _quiet() -> Generator[None]:
    """Keep what diffusers says of missing text encoders, and of errors that are raised anyway, from the terminal."""
    log = logging.getLogger("diffusers")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with loading.without_bars():
            yield
    finally:
        log.setLevel(before)
