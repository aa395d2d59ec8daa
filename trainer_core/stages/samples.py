"""Fixed prompts and seeds rendered from the exported file, base beside the LoRA at several strengths."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from trainer_core.families.shared import loading
from trainer_core.stages.publishing.lora_files import file_for_diffusers
from trainer_core.stages.rendering.encoded_prompts import encoded_key, prompt_inputs
from trainer_core.stages.rendering.prompts import Prompts, project_prompts
from trainer_core.stages.stage import Outcome, Stage, StageContext
from trainer_core.store.keys import digest
from trainer_core.types import JSON

if TYPE_CHECKING:
    from PIL import Image

    from trainer_core.config.project import Project
    from trainer_core.config.reads import Slice
    from trainer_core.families.spec import PrecisionName
    from trainer_core.sampling.render import RenderSettings
    from trainer_core.stages.project.session import Session

NAME = "samples"
GRID = "grid.png"


def prompts(context: StageContext) -> Prompts:
    """Return what is rendered."""
    return project_prompts(context.settings.sample, context.session)


def _inputs(context: StageContext) -> JSON:
    session, chosen = context.session, prompts(context)
    return {
        "weights": dict(session.fingerprints),
        "precision": precision(session),
        "prompts": list(chosen.texts),
        **({"control pictures": chosen.key} if chosen.key else {}),
        **({"encoded prompts": encoded} if (encoded := encoded_key(session)) else {}),
        **({"of each prompt": [line.key for line in chosen.rows]} if chosen.rows else {}),
    }


def precision(session: Session) -> PrecisionName:
    """Return the precision that pictures are rendered in."""
    # fp32 on CPUs: a picture is looked at once, and bf16 there saves little on a few steps.
    return "fp32" if session.profile.device == "cpu" else session.precision("train", "auto")


def _total(context: StageContext) -> int:
    return (1 + len(strengths(context))) * len(prompts(context).texts)


def strengths(context: StageContext) -> dict[str, float]:
    """Return heading -> strength of the LoRA for each of its columns."""
    return {f"LoRA {str(float(one)).removesuffix('.0')}": one for one in context.settings.sample.strengths}


def _run(context: StageContext) -> Outcome:
    from trainer_core.sampling.render import same_pictures

    settings = render_settings(context.session, context.settings, prompts(context))
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


def _render_columns(context: StageContext, settings: RenderSettings) -> dict[str, list[Image.Image]]:
    """Return heading -> pictures: the base, the snapshots in order at strength 1, the LoRA at each strength."""
    from trainer_core.hardware.placement import torch_device, torch_dtype, torch_work
    from trainer_core.sampling.trained_noise import use_trained_noise
    from trainer_core.stages.rendering.lora_loading import load_lora, set_strength, unload_lora

    session, lora, wanted = context.session, context.upstream["lora_checkpoint"], strengths(context)
    spec = session.family.spec
    snapshots = [lora.file(name) for name in sorted(lora.files) if name.startswith("snapshots/")]
    tell = _Counter(context, (1 + len(snapshots) + len(wanted)) * len(settings.prompts))
    with torch_work(session.profile, context.settings.hardware.threads):
        pipeline = loading.load_pipeline(session.source, torch_dtype(precision(session)))  # type: ignore[arg-type]
        use_trained_noise(pipeline, context.settings.noise, session.family.spec.prediction)
        pipeline.to(torch_device(session.profile))
        pipeline.set_progress_bar_config(disable=True)
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


def _write(context: StageContext, columns: dict[str, list[Image.Image]], settings: RenderSettings) -> dict[str, str]:
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


def _tell_services(context: StageContext, columns: dict[str, list[Image.Image]], settings: RenderSettings) -> None:
    logging = context.settings.logging
    if not logging.tensorboard and logging.wandb == "off":
        return
    from trainer_core.train.observe.trackers import RunFolders, SamplePicture, show_samples

    session, lora = context.session, context.upstream["lora_checkpoint"].metadata
    steps = {heading: int(heading.removeprefix("step ")) for heading in columns if heading.startswith("step ")}
    pictures = [
        SamplePicture(row, prompt, heading, steps.get(heading, 0 if heading == "base" else lora["selected_step"]), one)
        for heading, of_column in columns.items()
        for row, (prompt, one) in enumerate(zip(settings.prompts, of_column, strict=True))
    ]
    workdir = session.store.root / "runs" / lora["run"]
    show_samples(RunFolders(workdir, session.outputs, session.project.name), logging, pictures)


def render_settings(
    session: Session, settings: Slice | Project, prompts: Prompts, seed: int | None = None
) -> RenderSettings:
    """Return how some prompts are rendered for a project; `seed` in place of the samples' own.

    Raises:
        DatasetError: a control picture changed since it was looked at, or cannot be decoded.
    """
    from trainer_core.sampling.render import RenderSettings

    sample, side = settings.sample, settings.bucket.resolution
    spec = session.family.spec
    multiple = spec.size_multiple
    return RenderSettings(
        prompts=prompts.texts,
        negative_prompt=sample.negative_prompt,
        steps=sample.steps,
        guidance=sample.guidance,
        seed=sample.seed if seed is None else seed,
        width=(sample.width or side) // multiple * multiple,
        height=(sample.height or side) // multiple * multiple,
        controls=prompts.pictures(),
        guidance_argument=spec.rendering.guidance_argument,
        rows=prompts.rows,
        sampler=sample.sampler,
        prediction=spec.prediction,
    )


class _Counter:
    """Counts pictures over several renderings."""

    def __init__(self, context: StageContext, total: int) -> None:
        self.context, self.total, self.done = context, total, 0

    def render(self, pipeline: Any, settings: RenderSettings) -> list[Image.Image]:
        """Render all prompts and report each picture."""
        from trainer_core.sampling.render import render

        return render(pipeline, prompt_inputs(self.context.session), settings, self._tell)

    def _tell(self) -> None:
        self.done += 1
        self.context.report(NAME, self.done, self.total, "picture")


SAMPLES = Stage(
    name=NAME,
    version=2,
    description="Fixed prompts and seeds rendered from the exported file, base beside the LoRA at several strengths.",
    reads=(
        *("sample", "bucket.resolution", "noise.prediction", "noise.zero_terminal_snr"),
        *("hardware.threads", "logging"),
    ),
    needs=("lora_checkpoint",),
    run=_run,
    inputs=_inputs,
    total=_total,
    outputs={GRID: "samples.png"},
)
