"""Pipelines as samples, metrics and the command line render with them: loaded, placed, and given their settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trainer_core.config.groups import MemoryConfig, SampleConfig
from trainer_core.config.reads import GroupPart
from trainer_core.families.shared import loading
from trainer_core.families.spec import PrecisionName
from trainer_core.families.storage.schemes import Storage
from trainer_core.hardware.placement import torch_device, torch_dtype
from trainer_core.sampling.render import RenderSettings
from trainer_core.sampling.trained_noise import use_trained_noise
from trainer_core.stages.group_parts import BaseStorage
from trainer_core.stages.project.quantised_base import load_base, storage_of
from trainer_core.stages.project.workspace import Workspace
from trainer_core.stages.rendering.prompts import Prompts

if TYPE_CHECKING:
    from trainer_core.sampling.trained_noise import TrainedNoise

SampleStorage = Literal["trained", "dense", "fp8", "int8", "nf4"]


@dataclass(frozen=True)
class RenderedSample(GroupPart):
    """How a prompt is rendered, of the group `sample`."""

    negative_prompt: str
    steps: int
    guidance: float
    width: int
    height: int
    sampler: str
    quantise: SampleStorage


def render_precision(workspace: Workspace) -> PrecisionName:
    """Return the precision that pictures are rendered in."""
    # fp32 on CPUs: a picture is looked at once, and bf16 there saves little on a few steps.
    return "fp32" if workspace.profile.device == "cpu" else workspace.precision("train", "auto")


def rendered_storage(workspace: Workspace, memory: BaseStorage | MemoryConfig, quantise: SampleStorage) -> Storage:
    """Return how the base is held while pictures are rendered."""
    if quantise == "trained":
        return storage_of(workspace, memory)
    compute = memory.compute if quantise in ("fp8", "int8") else "dense"
    return Storage(quantise, memory.base_modules, compute)


def open_pipeline(workspace: Workspace, noise: TrainedNoise, storage: Storage) -> Any:
    """Load the base's pipeline onto its device, with the noise that the LoRA is trained with and no progress bar.

    Args:
        workspace: its base is loaded.
        noise: what training changes of sampling.
        storage: how the denoiser is held.
    """
    family, dtype = workspace.family, torch_dtype(render_precision(workspace))
    denoiser = None if storage.dense else load_base(workspace, dtype, storage)
    pipeline: Any = loading.load_pipeline(workspace.source, dtype, denoiser)
    use_trained_noise(pipeline, noise, family.spec.prediction)
    pipeline.to(torch_device(workspace.profile))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def render_settings(
    workspace: Workspace, sample: SampleConfig | RenderedSample, side: int, prompts: Prompts, seed: int
) -> RenderSettings:
    """Return how some prompts are rendered.

    Args:
        workspace: its family decides which sizes there are.
        sample: the settings.
        side: width and height in pixels where `sample` gives none.
        prompts: what is rendered.
        seed: of the first prompt.

    Raises:
        DatasetError: a control picture changed since it was looked at, or cannot be decoded.
    """
    spec = workspace.family.spec
    multiple = spec.size_multiple
    return RenderSettings(
        prompts=prompts.texts,
        negative_prompt=sample.negative_prompt,
        steps=sample.steps,
        guidance=sample.guidance,
        seed=seed,
        width=(sample.width or side) // multiple * multiple,
        height=(sample.height or side) // multiple * multiple,
        controls=prompts.pictures(),
        guidance_argument=spec.rendering.guidance_argument,
        rows=prompts.rows,
        sampler=sample.sampler,
        prediction=spec.prediction,
    )
