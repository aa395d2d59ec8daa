"""The LoRA: trained from the caches, exported, and described by where it came from."""

from __future__ import annotations

from trainer_core.stages.lora_settings import LoraContext, LoraSettings, evaluation_plan, run_length
from trainer_core.stages.preflight.findings import caption_findings
from trainer_core.stages.project.base_model import base_name
from trainer_core.stages.publishing.lora_names import PROOF, published_names
from trainer_core.stages.stage import Outcome, Stage
from trainer_core.stages.training.continuation import forecast
from trainer_core.stages.training.run_key import run_inputs
from trainer_core.stages.training.save_schedule import is_saved_output
from trainer_core.types import JSON

NAME = "lora_checkpoint"


def _inputs(context: LoraContext) -> JSON:
    replaced = context.workspace.base.replaced
    named = {"base_name": base_name(context.settings.model.path)}
    measured = evaluation_plan(context).key
    return {
        **run_inputs(context),
        **named,
        **({"replaced_components": replaced} if replaced else {}),
        **({"evaluation": measured} if measured else {}),
    }


def _run(context: LoraContext) -> Outcome:
    from trainer_core.stages.training.train_and_export import train_and_export

    return train_and_export(context)


LORA_CHECKPOINT = Stage(
    name=NAME,
    version=3,
    description="The LoRA, trained from the caches and exported in several formats, each proven to hold it.",
    settings=LoraSettings,
    less_memory="Lower train.batch_size or adapter.rank, or set train.gradient_checkpointing to true.",
    before_run=caption_findings,
    needs=("cached_latents", "cached_text_embeddings"),
    run=_run,
    inputs=_inputs,
    total=lambda context: run_length(context).steps,
    outputs={
        **published_names(),
        "training.jsonl": "training.jsonl",
        "loss_curve.png": "loss_curve.png",
        PROOF: PROOF,
    },
    is_own_output=is_saved_output,
    forecast=forecast,
)
