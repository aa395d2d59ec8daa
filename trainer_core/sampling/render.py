"""Render prompts with the real diffusers pipeline, with and without the LoRA of a file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.errors import ModelError
from trainer_core.families.shared.loading import without_bars
from trainer_core.sampling.batching import PromptRequest, pipeline_accepts, render_requests
from trainer_core.sampling.prompt_file import PromptLine

if TYPE_CHECKING:
    from PIL import Image

Inputs = Callable[[Any, str, str, Sequence["Image.Image"]], dict[str, Any]]
"""`Family.pipeline_inputs`: (pipeline, prompt, negative prompt, control pictures) -> arguments of the pipeline."""


@dataclass(frozen=True)
class PromptSettings:
    """Everything that one prompt is rendered with."""

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

    def prompt_settings(self, position: int) -> PromptSettings:
        """Return everything that the prompt at `position` is rendered with."""
        own = self.rows[position] if self.rows else PromptLine(self.prompts[position])
        return PromptSettings(
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
        return [self.prompt_settings(position).seed for position in range(len(self.prompts))]

    def controls_of(self, position: int) -> tuple[Image.Image, ...]:
        """Return the control pictures of the prompt at `position`."""
        return self.controls[position] if self.controls else ()


def render(
    pipeline: Any, inputs: Inputs, settings: RenderSettings, on_picture: Callable[[], None]
) -> list[Image.Image]:
    """Render each prompt with its own seed and sampler; prompts of one size and sampler share calls of the pipeline.

    Args:
        pipeline: a diffusers pipeline on its device.
        inputs: the family's `pipeline_inputs`.
        settings: prompts, seeds, size and guidance.
        on_picture: called after each picture.

    Raises:
        ConfigError: a sampler does not fit the pipeline.
    """
    requests = [
        prompt_request(pipeline, inputs, settings, position, (settings.prompt_settings(position).seed,))
        for position in range(len(settings.prompts))
    ]
    return [pictures[0] for pictures in render_requests(pipeline, requests, settings.prediction, on_picture)]


def prompt_request(
    pipeline: Any, inputs: Inputs, settings: RenderSettings, position: int, seeds: Sequence[int]
) -> PromptRequest:
    """Return what to ask of a pipeline for the prompt at `position`."""
    own = settings.prompt_settings(position)
    size = {"width": own.width, "height": own.height}
    if pipeline_accepts(pipeline, "max_area"):
        # This pipeline renders `max_area` pixels, whatever width and height say.
        size["max_area"] = own.width * own.height
    texts = inputs(pipeline, own.prompt, own.negative_prompt, settings.controls_of(position))
    arguments = {"num_inference_steps": own.steps, settings.guidance_argument: own.guidance} | size | texts
    return PromptRequest(arguments, tuple(seeds), own.sampler)


def load_lora(pipeline: Any, path: Path) -> None:
    """Load a LoRA file as any user of diffusers would.

    Raises:
        ModelError: diffusers loaded nothing from the file; it reports no error for unknown keys.
    """
    logger = logging.getLogger("diffusers.loaders.lora_base")
    before = logger.level
    # without this it warns about every text encoder that the file has no weights for
    logger.setLevel(logging.ERROR)
    try:
        with without_bars():
            pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
    finally:
        logger.setLevel(before)
    if not pipeline.get_active_adapters():
        raise ModelError(f"{path}: diffusers loaded no weights from this file. Export it again.")


def set_strength(pipeline: Any, strength: float) -> None:
    """Scale what the loaded LoRA adds; 1 is the strength that it was trained with."""
    names = pipeline.get_active_adapters()
    pipeline.set_adapters(names, adapter_weights=[strength] * len(names))


def same_pictures(first: Sequence[Image.Image], second: Sequence[Image.Image]) -> bool:
    """Say whether two renderings are pixel for pixel the same."""
    return all(one.tobytes() == other.tobytes() for one, other in zip(first, second, strict=True))
