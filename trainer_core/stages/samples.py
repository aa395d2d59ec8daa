"""Fixed prompts and seeds rendered from the exported file, base beside LoRA."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.stages.base import Outcome, Stage, StageContext
from trainer_core.stages.lora_checkpoint import LORA
from trainer_core.store.keys import digest
from trainer_core.types import JSON, Sample

if TYPE_CHECKING:
    from PIL import Image

    from trainer_core.config.project import Project
    from trainer_core.config.reads import Slice
    from trainer_core.families.base import PrecisionName
    from trainer_core.sampling.render import RenderSettings
    from trainer_core.stages.session import Session

NAME = "samples"
GRID = "grid.png"
_OWN_PROMPTS = 4
"""Captions taken as prompts when the project names none."""


def prompts(context: StageContext) -> tuple[str, ...]:
    """Return the project's prompts, else captions: of held-out pictures first, as the LoRA has not seen those."""
    if context.settings.sample.prompts:
        return context.settings.sample.prompts

    def rank(sample: Sample) -> tuple[bool, str]:
        return sample.split == "train", sample.id

    captions = (sample.caption for sample in sorted(context.session.manifest.samples, key=rank))
    return tuple(dict.fromkeys(captions))[:_OWN_PROMPTS]


def _inputs(context: StageContext) -> JSON:
    session = context.session
    return {
        "weights": dict(session.fingerprints),
        "precision": precision(context.session),
        "prompts": list(prompts(context)),
    }


def precision(session: Session) -> PrecisionName:
    """Return the precision that pictures are rendered in."""
    # fp32 on CPUs: a picture is looked at once, and bf16 there saves little on a few steps.
    return "fp32" if session.profile.device == "cpu" else session.precision("train", "auto")


def _total(context: StageContext) -> int:
    return 2 * len(prompts(context))


def _run(context: StageContext) -> Outcome:
    from trainer_core.hardware.placement import torch_device, torch_dtype, torch_work
    from trainer_core.sampling.render import load_lora, same_pictures

    session, lora = context.session, context.upstream["lora_checkpoint"]
    settings = render_settings(session, context.settings, prompts(context))
    files = [lora.file(name) for name in sorted(lora.files) if name.startswith("snapshots/")] + [lora.file(LORA)]
    tell = _Counter(context, (1 + len(files)) * len(settings.prompts))
    with torch_work(context.session.profile, context.settings.hardware.threads):
        pipeline = session.family.load_pipeline(session.source, torch_dtype(precision(session)))  # type: ignore[arg-type]
        pipeline.to(torch_device(session.profile))
        pipeline.set_progress_bar_config(disable=True)
        columns = {"base": tell.render(pipeline, settings)}
        for path in files:
            load_lora(pipeline, path)
            columns[_heading(path)] = tell.render(pipeline, settings)
            pipeline.unload_lora_weights()
        del pipeline
    changed = not same_pictures(columns["base"], columns["LoRA"])
    names = _write(context, columns, settings)
    version = digest(names)
    metadata: dict[str, JSON] = {
        "prompts": list(settings.prompts),
        "pictures": len(names),
        "lora_changes_picture": changed,
    }
    return Outcome(version, metadata, items_computed=len(names))


def _write(context: StageContext, columns: dict[str, list[Image.Image]], settings: RenderSettings) -> dict[str, str]:
    """Write the grid and each picture; return name -> SHA-256 of the pixels."""
    from trainer_core.sampling.grid import make_grid

    seeds = [settings.seed + row for row in range(len(settings.prompts))]
    make_grid(columns, settings.prompts, seeds).save(context.staging / GRID)
    pixels: dict[str, str] = {}
    for heading, pictures in columns.items():
        folder = context.staging / "pictures" / heading.replace(" ", "-")
        folder.mkdir(parents=True)
        for row, picture in enumerate(pictures):
            picture.save(folder / f"{row:02d}.png")
            pixels[f"{heading}/{row:02d}"] = hashlib.sha256(picture.tobytes()).hexdigest()
    return pixels


def render_settings(session: Session, settings: Slice | Project, prompts: tuple[str, ...]) -> RenderSettings:
    """Return how some prompts are rendered for a project."""
    from trainer_core.sampling.render import RenderSettings

    sample, side = settings.sample, settings.bucket.resolution
    multiple = session.family.spec.size_multiple
    return RenderSettings(
        prompts=prompts,
        negative_prompt=sample.negative_prompt,
        steps=sample.steps,
        guidance=sample.guidance,
        seed=sample.seed,
        width=(sample.width or side) // multiple * multiple,
        height=(sample.height or side) // multiple * multiple,
    )


def _heading(path: Path) -> str:
    return "LoRA" if path.name == LORA else f"step {int(path.stem.removeprefix('step-'))}"


class _Counter:
    """Counts pictures over several renderings."""

    def __init__(self, context: StageContext, total: int) -> None:
        self.context, self.total, self.done = context, total, 0

    def render(self, pipeline: Any, settings: RenderSettings) -> list[Image.Image]:
        """Render all prompts and report each picture."""
        from trainer_core.sampling.render import render

        return render(pipeline, settings, self._tell)

    def _tell(self) -> None:
        self.done += 1
        self.context.report(NAME, self.done, self.total, "picture")


SAMPLES = Stage(
    name=NAME,
    version=1,
    description="Fixed prompts and seeds rendered from the exported file, base beside LoRA.",
    reads=("sample", "bucket.resolution", "hardware.threads"),
    needs=("lora_checkpoint",),
    run=_run,
    inputs=_inputs,
    total=_total,
    outputs={GRID: "samples.png"},
)
