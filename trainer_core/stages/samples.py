"""Fixed prompts and seeds rendered from the exported file, base beside the LoRA at several strengths."""

from __future__ import annotations

from pathlib import Path

from trainer_core.export.card.facts import GRID as SAMPLES_GRID
from trainer_core.export.card.facts import MOST_PICTURES, is_picture_name, picture_name
from trainer_core.stages.project.quantised_base import storage_key
from trainer_core.stages.publishing.lora_names import file_for_diffusers
from trainer_core.stages.rendering.base_pictures import earlier_base_pictures
from trainer_core.stages.rendering.encoded_prompts import encoded_key
from trainer_core.stages.rendering.prompts import Prompts, project_prompts
from trainer_core.stages.rendering.renderer import render_precision, rendered_storage
from trainer_core.stages.rendering.samples_settings import GRID, NAME, SamplesContext, SamplesSettings, strengths
from trainer_core.stages.stage import Outcome, Stage
from trainer_core.store import Published
from trainer_core.types import JSON

_VERSION = 2
_COLUMN = "LoRA-"
_OF_LORA = f"pictures/{_COLUMN}"


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
        **storage_key(rendered_storage(context.workspace, context.settings.memory, context.settings.sample.quantise)),
        **({"of each prompt": [line.key for line in chosen.rows]} if chosen.rows else {}),
    }


def _total(context: SamplesContext) -> int:
    return (1 + len(strengths(context))) * len(prompts(context).texts)


def _run(context: SamplesContext) -> Outcome:
    from trainer_core.stages.rendering.render_samples import render_samples

    known = earlier_base_pictures(context, _VERSION, _inputs(context))
    return render_samples(context, file_for_diffusers(context.upstream["lora_checkpoint"]), known)


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


SAMPLES = Stage(
    name=NAME,
    version=_VERSION,
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
