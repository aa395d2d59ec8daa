"""The examination of a finished LoRA, from its file: held-out loss, and scores of pictures of fixed prompts."""

from __future__ import annotations

from collections.abc import Mapping

from trainer_core.stages.examining.exam_keys import (
    METRICS,
    NAME,
    MetricsContext,
    MetricsSettings,
    exam_inputs,
    measurements,
)
from trainer_core.stages.project.session import Session
from trainer_core.stages.publishing import promotion
from trainer_core.stages.publishing.lora_names import LORA
from trainer_core.stages.publishing.model_card import publish_card
from trainer_core.stages.publishing.outputs import publish_outputs
from trainer_core.stages.stage import Outcome, Stage
from trainer_core.store import Published
from trainer_core.types import JSON, FileStat

CHAMPION = "champion.safetensors"
"""In `outputs/NAME/`: the LoRA that was promoted last."""


def _run(context: MetricsContext) -> Outcome:
    from trainer_core.stages.examining.examine_lora import examine

    return examine(context)


def _after_publish(session: Session, upstream: Mapping[str, Published], published: Published) -> Mapping[str, JSON]:
    """Promote the LoRA or not, and publish the champion and the model card.

    The limits decide nothing that is measured, so they are in no key, and a new limit is in force at once.
    """
    lora, project, workspace = upstream["lora_checkpoint"], session.project, session.workspace
    store = workspace.store
    verdict = promotion.promote(store, project.name, lora, published, project.gate)
    if (champion := promotion.find_champion(store, project.name)) is not None:
        target = workspace.outputs / CHAMPION
        known = store.index.file_hashes({str(target): FileStat.of_path(target)}) if target.is_file() else {}
        publish_outputs(workspace.outputs, champion.lora, {LORA: CHAMPION}, known)
    publish_card(session, lora, published, verdict)
    return {"promoted": verdict.promoted, "reasons": list(verdict.reasons)}


METRICS_STAGE = Stage(
    name=NAME,
    version=4,
    description="Held-out loss with fixed noise and sigmas, and scores of pictures of fixed prompts and seeds, of base "
    "and LoRA, measured from the exported file. They decide whether it becomes the project's champion.",
    settings=MetricsSettings,
    needs=("cached_latents", "cached_text_embeddings", "lora_checkpoint"),
    run=_run,
    inputs=exam_inputs,
    total=measurements,
    outputs={METRICS: "metrics.json"},
    after_publish=_after_publish,
)
