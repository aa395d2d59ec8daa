"""Render prompts with the real diffusers pipeline, with and without the LoRA of a file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from trainer_core.errors import ModelError
from trainer_core.families.shared.loading import without_bars
from trainer_core.sampling.prompt_file import PromptLine
from trainer_core.sampling.samplers import sampling_with

Inputs = Callable[[Any, str, str, Sequence[Image.Image]], dict[str, Any]]
"""`Family.pipeline_inputs`: (pipeline, prompt, negative prompt, control pictures) -> arguments of the pipeline."""


@dataclass(frozen=True)
class Row:
    """What one prompt is rendered with."""

    prompt: str
    negative_prompt: str
    steps: int
    guidance: float
    seed: int
    width: int
    height: int
    sampler: str


@dataclass(frozen=True)
class RenderSettings:
    """What a sample depends on besides the weights."""

    prompts: tuple[str, ...]
    negative_prompt: str
    steps: int
    guidance: float
    seed: int
    width: int
    height: int
    controls: tuple[tuple[Image.Image, ...], ...] = ()
    """RGB control pictures of each prompt; empty where no prompt edits anything."""
    guidance_argument: str = "guidance_scale"
    """Argument of the pipeline's call that takes `guidance`."""
    rows: tuple[PromptLine, ...] = ()
    """What differs for each prompt; empty where nothing does."""
    sampler: str = ""
    """A name of `samplers.py`; empty for the base's own."""
    prediction: str = "diffusion"
    """The family's: samplers differ by it."""

    def row(self, position: int) -> Row:
        """Return everything that the prompt at `position` is rendered with."""
        own = self.rows[position] if self.rows else PromptLine(self.prompts[position])
        return Row(
            prompt=self.prompts[position],
            negative_prompt=self.negative_prompt if own.negative_prompt is None else own.negative_prompt,
            steps=own.steps or self.steps,
            guidance=self.guidance if own.guidance is None else own.guidance,
            seed=self.seed + position if own.seed is None else own.seed,
            width=own.width or self.width,
            height=own.height or self.height,
            sampler=own.sampler or self.sampler,
        )

    @property
    def seeds(self) -> list[int]:
        """The seed of each prompt."""
        return [self.row(position).seed for position in range(len(self.prompts))]

    def controls_of(self, position: int) -> tuple[Image.Image, ...]:
        """Return the control pictures of the prompt at `position`."""
        return self.controls[position] if self.controls else ()


def render(
    pipeline: Any, inputs: Inputs, settings: RenderSettings, on_picture: Callable[[], None]
) -> list[Image.Image]:
    """Render each prompt with its own seed and sampler, one at a time, so that a row depends on nothing else.

    Args:
        pipeline: a diffusers pipeline on its device.
        inputs: the family's `pipeline_inputs`.
        settings: prompts, seeds, size and guidance.
        on_picture: called after each picture.

    Raises:
        ConfigError: a sampler does not fit the pipeline.
    """
    pictures: list[Image.Image] = []
    for position in range(len(settings.prompts)):
        arguments = pipeline_arguments(pipeline, inputs, settings, position)
        # A CPU generator gives the same starting noise on every device.
        row = settings.row(position)
        generator = torch.Generator("cpu").manual_seed(row.seed)
        with sampling_with(pipeline, row.sampler, settings.prediction):
            # Some pipelines name their pictures otherwise than `images`, but all return them first.
            pictures.append(pipeline(**arguments, generator=generator, return_dict=False)[0][0])
        on_picture()
    return pictures


def pipeline_arguments(pipeline: Any, inputs: Inputs, settings: RenderSettings, position: int) -> dict[str, Any]:
    """Return all arguments of a pipeline's call but the generator, for the prompt at `position`."""
    row = settings.row(position)
    size = {"width": row.width, "height": row.height}
    if pipeline_accepts(pipeline, "max_area"):
        # It would render that area, whatever size it is told.
        size["max_area"] = row.width * row.height
    shown = settings.controls_of(position)
    own = inputs(pipeline, row.prompt, row.negative_prompt, shown)
    return {"num_inference_steps": row.steps, settings.guidance_argument: row.guidance} | size | own


def load_lora(pipeline: Any, path: Path) -> None:
    """Load a LoRA file as any user of diffusers would.

    Raises:
        ModelError: diffusers took nothing from the file, which it does without an error for unknown keys.
    """
    told = logging.getLogger("diffusers.loaders.lora_base")
    before = told.level
    # It warns of every text encoder that the file has nothing for.
    told.setLevel(logging.ERROR)
    try:
        with without_bars():
            pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
    finally:
        told.setLevel(before)
    if not pipeline.get_active_adapters():
        raise ModelError(f"{path}: diffusers loaded no weights from this file. Export it again.")


def set_strength(pipeline: Any, strength: float) -> None:
    """Scale what the loaded LoRA adds; 1 is the strength that it was trained with."""
    names = pipeline.get_active_adapters()
    pipeline.set_adapters(names, adapter_weights=[strength] * len(names))


def pipeline_accepts(pipeline: Any, argument: str) -> bool:
    """Say whether a pipeline takes a keyword argument."""
    import inspect

    return argument in inspect.signature(type(pipeline).__call__).parameters


def same_pictures(first: Sequence[Image.Image], second: Sequence[Image.Image]) -> bool:
    """Say whether two renderings are pixel for pixel the same."""
    return all(one.tobytes() == other.tobytes() for one, other in zip(first, second, strict=True))
