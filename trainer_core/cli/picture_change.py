"""Tests whether a LoRA changes a picture: loads it into a diffusers pipeline and renders. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image

from trainer_core.errors import ModelError
from trainer_core.families import family_of_pipeline
from trainer_core.families.model_source import ModelSource
from trainer_core.families.shared import loading
from trainer_core.sampling.render import RenderSettings, load_lora, render, same_pictures
from trainer_core.stages.rendering.lora_loading import load_lora as load_any

if TYPE_CHECKING:
    from trainer_core.families.family import Family

_STEPS = 4
_LARGEST = 512
"""Side in pixels of the picture that shows whether a LoRA does anything."""


def changes_picture(lora: Path, base: Path, prompt: str) -> bool:
    """Load a LoRA into the pipeline of a folder through `load_lora_weights` and say whether a picture changes.

    Raises:
        ModelError: diffusers cannot load the base model, or the LoRA into it.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline, family = _pipeline(base, torch.bfloat16 if device == "cuda" else torch.float32)
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    inputs = family.pipeline_inputs if family else _as_text
    settings = _settings(pipeline, prompt, family)
    before = render(pipeline, inputs, settings, lambda: None)
    try:
        if family is None:
            load_lora(pipeline, lora)
        else:
            load_any(pipeline, lora, family.spec)
    except (ValueError, RuntimeError, KeyError) as error:
        raise ModelError(
            f"{lora}: diffusers cannot load it into {base}: {error}. Give --base the model that it was trained for."
        ) from error
    return not same_pictures(before, render(pipeline, inputs, settings, lambda: None))


def _pipeline(base: Path, dtype: torch.dtype) -> tuple[Any, Family | None]:
    """Load the pipeline of a folder, and say of which family it is.

    The family's own loader is used if there is one: it needs no torchvision, and corrects errors of pipelines.

    Raises:
        ModelError: there is none, or it cannot be loaded.
    """
    index = base / "model_index.json"
    if not index.is_file():
        raise ModelError(f"--base {base}: is not a diffusers-format folder (no model_index.json). Give its root.")
    try:
        name = str(json.loads(index.read_text("utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"--base {base}: model_index.json names no pipeline ({error}). Copy the model again."
        ) from error
    try:
        family = family_of_pipeline(name)
        if family is None:
            return _stock_pipeline(base, dtype), None
        return loading.load_pipeline(ModelSource.open(base, None, family.spec), dtype), family
    except ModelError as error:
        raise ModelError(f"--base: {str(error).removeprefix('model.path: ')}") from error
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(
            f"--base {base}: diffusers cannot load it: {error}. Copy the model again, or give another folder."
        ) from error


def _stock_pipeline(base: Path, dtype: torch.dtype) -> Any:
    # local_files_only: diffusers must not search a hub for a folder.
    return DiffusionPipeline.from_pretrained(str(base), torch_dtype=dtype, local_files_only=True)


def _as_text(pipeline: Any, prompt: str, negative_prompt: str, controls: Sequence[Any]) -> dict[str, Any]:
    """Return the arguments of a pipeline that is of no family here."""
    return {"prompt": prompt}


def _settings(pipeline: Any, prompt: str, family: Family | None) -> RenderSettings:
    scale = int(getattr(pipeline, "vae_scale_factor", 8))
    side = min(int(getattr(pipeline, "default_sample_size", None) or _own_size(pipeline)) * scale, _LARGEST)
    if family is None:
        return RenderSettings((prompt,), "", _STEPS, 5.0, 0, side, side)
    multiple, control = family.spec.size_multiple, family.spec.control
    side = max(side // multiple, 1) * multiple
    # A model that can only edit gets a grey picture to edit.
    shown = ((Image.new("RGB", (side, side), "grey"),),) if control is not None and control.required else ()
    return RenderSettings((prompt,), "", _STEPS, 5.0, 0, side, side, shown, family.spec.rendering.guidance_argument)


def _own_size(pipeline: Any) -> int:
    """Return the side in latent pixels that a denoiser was made for, if its pipeline does not say."""
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    size = getattr(denoiser.config, "sample_size", None) if denoiser is not None else None
    return size if isinstance(size, int) else 64
