"""The stages in the order in which they run. A new stage is one file and one row here."""

from __future__ import annotations

from typing import Any

from trainer_core.stages.cached_latents import CACHED_LATENTS
from trainer_core.stages.cached_text_embeddings import CACHED_TEXT_EMBEDDINGS
from trainer_core.stages.lora_checkpoint import LORA_CHECKPOINT
from trainer_core.stages.metrics import METRICS_STAGE
from trainer_core.stages.samples import SAMPLES
from trainer_core.stages.stage import Stage
from trainer_core.stages.validated_dataset import VALIDATED_DATASET

STAGES: dict[str, Stage[Any]] = {
    stage.name: stage
    for stage in (VALIDATED_DATASET, CACHED_LATENTS, CACHED_TEXT_EMBEDDINGS, LORA_CHECKPOINT, SAMPLES, METRICS_STAGE)
}
"""Every stage by name, each after the stages it needs."""
