"""Fixed prompts and seeds rendered from the exported file, base beside the LoRA at several strengths."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from trainer_core.config.groups import LoggingConfig, SampleConfig, TextConfig
from trainer_core.config.reads import GroupPart, KeyedBy, StageSettings
from trainer_core.export.card.facts import GRID as SAMPLES_GRID
from trainer_core.export.card.facts import MOST_PICTURES, is_picture_name, picture_name
from trainer_core.hardware.placement import torch_work
from trainer_core.sampling.render import render, same_pictures
from trainer_core.stages.group_parts import Resolution, Threads
from trainer_core.stages.publishing.lora_names import file_for_diffusers
from trainer_core.stages.rendering.encoded_prompts import encoded_key, prompt_inputs
from trainer_core.stages.rendering.prompts import Prompts, project_prompts
from trainer_core.stages.rendering.renderer import open_pipeline, render_precision, render_settings
from trainer_core.stages.results import TrainingReport
from trainer_core.stages.stage import Outcome, Stage, StageContext
from trainer_core.store import Published
from trainer_core.store.keys import digest
from trainer_core.types import JSON

if TYPE_CHECKING:
    from PIL import Image

    from trainer_core.sampling.render import RenderSettings

NAME = "samples"
GRID = "grid.png"
_COLUMN = "LoRA-"
_OF_LORA = f"pictures/{_COLUMN}"


@dataclass(frozen=True)
class SchedulerNoise(GroupPart):
    """What the noise of training changes of sampling, of the group `noise`."""

    prediction: Literal["auto", "epsilon", "v_prediction"]
    zero_terminal_snr: bool


@dataclass(frozen=True)
class SamplesSettings(StageSettings):
    """The settings that decide what is rendered, and how."""

    sample: SampleConfig
    bucket: Resolution
    noise: SchedulerNoise
    hardware: Threads
    logging: LoggingConfig
    text: Annotated[TextConfig, KeyedBy("`encoded prompts` among the inputs")]


SamplesContext = StageContext[SamplesSettings]


def prompts(context: SamplesContext) -> Prompts:
    """Return what is rendered."""
    return project_prompts(context.settings.sample, context.workspace)


def _inputs(context: SamplesContext) -> JSON:
    workspace, chosen = context.workspace, prompts(context)
    encoded = encoded_key(workspace.family.spec, context.settings.text)
    return {
        "weights": dict(workspace.fingerprints),
        "precision": render_precision(workspace),
        "prompts": list(chosen.texts),
        **({"control pictures": chosen.key} if chosen.key else {}),
        **({"encoded prompts": encoded} if encoded else {}),
        **({"of each prompt": [line.key for line in chosen.rows]} if chosen.rows else {}),
    }


def _total(context: SamplesContext) -> int:
    return (1 + len(strengths(context))) * len(prompts(context).texts)


def strengths(context: SamplesContext) -> dict[str, float]:
    """Return heading -> strength of the LoRA for each of its columns."""
    return {f"LoRA {str(float(one)).removesuffix('.0')}": one for one in context.settings.sample.strengths}


def _run(context: SamplesContext) -> Outcome:
    sample, side = context.settings.sample, context.settings.bucket.resolution
    settings = render_settings(context.workspace, sample, side, prompts(context), sample.seed)
    columns = _render_columns(context, settings)
    changed = any(not same_pictures(columns["base"], columns[heading]) for heading in strengths(context))
    names = _write(context, columns, settings)
    _tell_services(context, columns, settings)
    metadata: dict[str, JSON] = {
        "prompts": list(settings.prompts),
        "columns": list(columns),
        "pictures": len(names),
        "lora_changes_picture": changed,
    }
    return Outcome(digest(names), metadata, items_computed=len(names))


def _render_columns(context: SamplesContext, settings: RenderSettings) -> dict[str, list[Image.Image]]:
    """Return heading -> pictures: the base, the snapshots in order at strength 1, the LoRA at each strength."""
    from trainer_core.stages.rendering.lora_loading import load_lora, set_strength, unload_lora

    workspace, lora, wanted = context.workspace, context.upstream["lora_checkpoint"], strengths(context)
    spec = workspace.family.spec
    snapshots = [lora.file(name) for name in sorted(lora.files) if name.startswith("snapshots/")]
    tell = _Counter(context, (1 + len(snapshots) + len(wanted)) * len(settings.prompts))
    with torch_work(workspace.profile, context.settings.hardware.threads):
        pipeline = open_pipeline(workspace, context.settings.noise)
        columns = {"base": tell.render(pipeline, settings)}
        for path in snapshots:
            load_lora(pipeline, path, spec)
            columns[f"step {int(path.stem.removeprefix('step-'))}"] = tell.render(pipeline, settings)
            unload_lora(pipeline, spec)
        load_lora(pipeline, file_for_diffusers(lora), spec)
        for heading, strength in wanted.items():
            set_strength(pipeline, strength, spec)
            columns[heading] = tell.render(pipeline, settings)
    return columns


def _write(context: SamplesContext, columns: dict[str, list[Image.Image]], settings: RenderSettings) -> dict[str, str]:
    """Write the grid and each picture; return name -> SHA-256 of the pixels."""
    from trainer_core.sampling.grid import control_column, largest, make_grid

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


def _tell_services(context: SamplesContext, columns: dict[str, list[Image.Image]], settings: RenderSettings) -> None:
    logging = context.settings.logging
    if not logging.tensorboard and logging.wandb == "off":
        return
    from trainer_core.train.observe.trackers import RunFolders, SamplePicture, show_samples

    workspace, report = context.workspace, TrainingReport.from_json(context.upstream["lora_checkpoint"].metadata)
    steps = {heading: int(heading.removeprefix("step ")) for heading in columns if heading.startswith("step ")}
    pictures = [
        SamplePicture(row, prompt, heading, steps.get(heading, 0 if heading == "base" else report.selected_step), one)
        for heading, of_column in columns.items()
        for row, (prompt, one) in enumerate(zip(settings.prompts, of_column, strict=True))
    ]
    workdir = workspace.store.root / "runs" / report.run
    show_samples(RunFolders(workdir, workspace.outputs, workspace.name), logging, pictures)


def _pictures_for_the_card(published: Published) -> dict[str, str]:
    """Return file of the result -> its name in `outputs/NAME/`: the first prompts, at the strength nearest 1."""
    columns = {Path(name).parent.name for name in published.files if name.startswith(_OF_LORA)}
    if not columns:
        return {}
    nearest = min(columns, key=lambda column: (abs(float(column.removeprefix(_COLUMN)) - 1), column))
    return {
        name: picture_name(int(Path(name).stem))
        for name in sorted(published.files)
        if Path(name).parent.name == nearest and int(Path(name).stem) < MOST_PICTURES
    }


class _Counter:
    """Counts pictures over several renderings."""

    def __init__(self, context: SamplesContext, total: int) -> None:
        self.context, self.total, self.done = context, total, 0

    def render(self, pipeline: Any, settings: RenderSettings) -> list[Image.Image]:
        """Render all prompts and report each picture."""
        inputs = prompt_inputs(self.context.workspace.family, self.context.settings.text)
        return render(pipeline, inputs, settings, self._count)

    def _count(self) -> None:
        self.done += 1
        self.context.report(NAME, self.done, self.total, "picture")


SAMPLES = Stage(
    name=NAME,
    version=2,
    description="Fixed prompts and seeds rendered from the exported file, base beside the LoRA at several strengths.",
    settings=SamplesSettings,
    less_memory="Lower sample.width and sample.height.",
    needs=("lora_checkpoint",),
    run=_run,
    inputs=_inputs,
    total=_total,
    outputs={GRID: SAMPLES_GRID},
    more_outputs=_pictures_for_the_card,
    is_own_output=lambda name, output_name: is_picture_name(name),
)
