"""Base and LoRA side by side, for prompts that are not the project's own. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from trainer_core.config.project import Project
from trainer_core.hardware.placement import torch_work
from trainer_core.sampling.grid import control_column, largest, make_grid
from trainer_core.sampling.render import RenderSettings, render, same_pictures
from trainer_core.stages.project.workspace import Workspace
from trainer_core.stages.rendering.encoded_prompts import prompt_inputs
from trainer_core.stages.rendering.lora_loading import load_lora
from trainer_core.stages.rendering.renderer import open_pipeline, rendered_storage


def write_comparison(  # noqa: PLR0913 - what is rendered, with what, and where to
    workspace: Workspace,
    project: Project,
    lora: Path,
    settings: RenderSettings,
    target: Path,
    on_picture: Callable[[], None],
) -> bool:
    """Render all prompts with the base, then with the LoRA, and write one grid.

    Args:
        workspace: gives the base and the device.
        project: its noise, text and hardware settings are read.
        lora: a LoRA file for this base.
        settings: the prompts, and how they are rendered.
        target: the PNG file to write.
        on_picture: called after each picture.

    Returns:
        Whether the LoRA changes any picture.
    """
    base, changed = _columns(workspace, project, lora, settings, on_picture)
    target.parent.mkdir(parents=True, exist_ok=True)
    columns = control_column(settings.controls, largest([base])) | {"base": base, "LoRA": changed}
    make_grid(columns, settings.prompts, settings.seeds).save(target)
    return not same_pictures(base, changed)


def _columns(
    workspace: Workspace, project: Project, lora: Path, settings: RenderSettings, on_picture: Callable[[], None]
) -> tuple[list[Image.Image], list[Image.Image]]:
    with torch_work(workspace.profile, project.hardware.threads):
        storage = rendered_storage(workspace, project.memory, project.sample.quantise)
        pipeline = open_pipeline(workspace, project.noise, storage)
        inputs = prompt_inputs(workspace.family, project.text)
        base = render(pipeline, inputs, settings, on_picture)
        load_lora(pipeline, lora, workspace.family.spec)
        return base, render(pipeline, inputs, settings, on_picture)
