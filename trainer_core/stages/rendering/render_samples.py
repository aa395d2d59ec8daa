"""The work of the stage `samples`: renders the pictures and writes them. Imports torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from PIL import Image

from trainer_core.hardware.placement import torch_work
from trainer_core.sampling.grid import control_column, largest, make_grid
from trainer_core.sampling.render import RenderSettings, render, same_pictures
from trainer_core.stages.rendering.encoded_prompts import prompt_inputs
from trainer_core.stages.rendering.lora_loading import load_lora, set_strength, unload_lora
from trainer_core.stages.rendering.prompts import project_prompts
from trainer_core.stages.rendering.renderer import open_pipeline, render_settings, rendered_storage
from trainer_core.stages.rendering.samples_settings import GRID, NAME, SamplesContext, strengths
from trainer_core.stages.results import TrainingReport
from trainer_core.stages.stage import Outcome
from trainer_core.store.keys import digest
from trainer_core.train.observe.trackers import RunFolders, SamplePicture, show_samples
from trainer_core.types import JSON


def render_samples(context: SamplesContext, lora: Path, base: list[Image.Image]) -> Outcome:
    """Render all columns, write the grid and each picture, and send them to the services that are turned on.

    Args:
        context: the stage's; files go to `context.staging`.
        lora: the LoRA file of the finished run.
        base: the base's pictures where they are known, in the order of the prompts; empty where they are not.
    """
    sample, side = context.settings.sample, context.settings.bucket.resolution
    settings = render_settings(context.workspace, sample, side, project_prompts(sample, context.workspace), sample.seed)
    columns = _render_columns(context, lora, settings, base)
    changed = any(not same_pictures(columns["base"], columns[heading]) for heading in strengths(context))
    names = _write(context, columns, settings)
    _send_to_services(context, columns, settings)
    metadata: dict[str, JSON] = {
        "prompts": list(settings.prompts),
        "columns": list(columns),
        "pictures": len(names),
        "lora_changes_picture": changed,
    }
    return Outcome(digest(names), metadata, items_computed=len(names))


def _render_columns(
    context: SamplesContext, lora: Path, settings: RenderSettings, base: list[Image.Image]
) -> dict[str, list[Image.Image]]:
    """Return heading -> pictures: the base, the snapshots in order at strength 1, the LoRA at each strength."""
    workspace, run, wanted = context.workspace, context.upstream["lora_checkpoint"], strengths(context)
    spec = workspace.family.spec
    snapshots = [run.file(name) for name in sorted(run.files) if name.startswith("snapshots/")]
    counter = _Counter(context, (1 + len(snapshots) + len(wanted)) * len(settings.prompts))
    with torch_work(workspace.profile, context.settings.hardware.threads):
        storage = rendered_storage(context.workspace, context.settings.memory, context.settings.sample.quantise)
        pipeline = open_pipeline(workspace, context.settings.noise, storage)
        columns = {"base": counter.reuse(base) if base else counter.render(pipeline, settings)}
        for path in snapshots:
            load_lora(pipeline, path, spec)
            columns[f"step {int(path.stem.removeprefix('step-'))}"] = counter.render(pipeline, settings)
            unload_lora(pipeline, spec)
        load_lora(pipeline, lora, spec)
        for heading, strength in wanted.items():
            set_strength(pipeline, strength, spec)
            columns[heading] = counter.render(pipeline, settings)
    return columns


def _write(context: SamplesContext, columns: dict[str, list[Image.Image]], settings: RenderSettings) -> dict[str, str]:
    """Write the grid and each picture; return name -> SHA-256 of the pixels."""
    shown = control_column(settings.controls, largest(columns.values())) | columns
    make_grid(shown, settings.prompts, settings.seeds).save(context.staging / GRID)
    pixels: dict[str, str] = {}
    for heading, pictures in columns.items():
        folder = context.staging / "pictures" / heading.replace(" ", "-")
        folder.mkdir(parents=True)
        for row, picture in enumerate(pictures):
            picture.save(folder / f"{row:02d}.png")
            pixels[f"{heading}/{row:02d}"] = hashlib.sha256(picture.tobytes()).hexdigest()
    return pixels


def _send_to_services(context: SamplesContext, columns: dict[str, list[Image.Image]], settings: RenderSettings) -> None:
    logging = context.settings.logging
    if not logging.tensorboard and logging.wandb == "off":
        return
    workspace, report = context.workspace, TrainingReport.from_json(context.upstream["lora_checkpoint"].metadata)
    steps = {heading: int(heading.removeprefix("step ")) for heading in columns if heading.startswith("step ")}
    pictures = [
        SamplePicture(row, prompt, heading, steps.get(heading, 0 if heading == "base" else report.selected_step), one)
        for heading, of_column in columns.items()
        for row, (prompt, one) in enumerate(zip(settings.prompts, of_column, strict=True))
    ]
    workdir = workspace.store.root / "runs" / report.run
    show_samples(RunFolders(workdir, workspace.outputs, workspace.name), logging, pictures)


class _Counter:
    """Counts pictures over several renderings."""

    def __init__(self, context: SamplesContext, total: int) -> None:
        self.context, self.total, self.done = context, total, 0

    def render(self, pipeline: Any, settings: RenderSettings) -> list[Image.Image]:
        """Render all prompts and report each picture."""
        inputs = prompt_inputs(self.context.workspace.family, self.context.settings.text)
        return render(pipeline, inputs, settings, self._count)

    def reuse(self, pictures: list[Image.Image]) -> list[Image.Image]:
        """Count pictures that were rendered before."""
        for _ in pictures:
            self._count()
        return pictures

    def _count(self) -> None:
        self.done += 1
        self.context.report(NAME, self.done, self.total, "picture")
