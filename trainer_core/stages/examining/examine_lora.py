"""The work of the stage `metrics`: held-out losses and scores of pictures, of base and LoRA. Imports torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean
from typing import Any

import torch

from trainer_core.families.storage.schemes import DENSE, Storage
from trainer_core.hardware.placement import torch_device, torch_dtype, torch_work
from trainer_core.sampling.evaluate import Evaluator, HeldOut, all_levels, means
from trainer_core.sampling.exam import Exam, Score, load_clip_score, load_judge, render_exam, score_exam
from trainer_core.stages.caching.base_losses import base_losses
from trainer_core.stages.examining.exam_keys import (
    METRICS,
    NAME,
    MetricsContext,
    exam_key,
    exam_prompts,
    measured_samples,
    measurements,
    picture_exam_key,
)
from trainer_core.stages.project.quantised_base import load_base, storage_of
from trainer_core.stages.publishing import promotion
from trainer_core.stages.publishing.lora_names import file_for_diffusers, same_base
from trainer_core.stages.rendering.encoded_prompts import prompt_inputs
from trainer_core.stages.rendering.lora_loading import load_lora
from trainer_core.stages.rendering.renderer import open_pipeline, render_settings, rendered_storage
from trainer_core.stages.results import BaseAndLora, ChampionLoss, ExamFigures, PictureScores
from trainer_core.stages.stage import Outcome
from trainer_core.stages.training.live_text import held_out_with_lora
from trainer_core.stages.training.training_data import held_out_samples
from trainer_core.store import Published
from trainer_core.store.keys import digest

log = logging.getLogger(__name__)


def examine(context: MetricsContext) -> Outcome:
    """Measure base and LoRA, and write the figures.

    Args:
        context: the stage's; files go to `context.staging`.

    Raises:
        ConfigError: what scores pictures cannot be loaded.
        ModelError: the base cannot be read.
    """
    lora = context.upstream["lora_checkpoint"]
    progress = _Progress(context)
    with torch_work(context.workspace.profile, context.settings.hardware.threads):
        losses = _held_out_losses(context, progress)
        figures, scores = _exam_scores(context, progress)
    exam = ExamFigures(
        held_out_samples=len(losses.by_sample),
        weights_sha256=lora.data_version,
        exam=exam_key(context),
        figures=losses.mean | figures,
        by_sample=losses.by_sample,
        champion=losses.champion,
        dense_base_loss=losses.dense_base,
        picture_exam=picture_exam_key(context),
        scores=scores,
    )
    stored = exam.to_json()
    (context.staging / METRICS).write_text(json.dumps(stored, indent=2, sort_keys=True))
    return Outcome(digest(exam.meaning()), stored, items_computed=progress.done)


class _Progress:
    """Counts measurements: a loss of a held-out sample or a picture."""

    def __init__(self, context: MetricsContext) -> None:
        self.context, self.done = context, 0

    def __call__(self) -> None:
        """Count one."""
        self.done += 1
        self.context.report(NAME, self.done, max(self.done, measurements(self.context)), "measurement")


@dataclass(frozen=True)
class _HeldOutLosses:
    """Losses of the base and of the LoRA; empty where nothing is held out."""

    by_sample: Mapping[str, BaseAndLora] = field(default_factory=dict[str, BaseAndLora])
    champion: ChampionLoss | None = None
    dense_base: float | None = None
    """Of the base in full precision, where the one that was trained on is quantised; None where it did not fit."""

    @property
    def mean(self) -> dict[str, BaseAndLora]:
        """The figure `held_out_loss`."""
        if not (losses := self.by_sample.values()):
            return {}
        return {"held_out_loss": BaseAndLora(fmean(one.base for one in losses), fmean(one.lora for one in losses))}


def _held_out_losses(context: MetricsContext, progress: _Progress) -> _HeldOutLosses:
    """Measure the base, the same base with the exported LoRA, and with the champion's if it must be measured."""
    workspace, settings = context.workspace, context.settings
    samples = held_out_samples(workspace, context.upstream, {sample.id for sample in measured_samples(context)})
    if not samples:
        return _HeldOutLosses()
    dtype = torch_dtype(workspace.precision("train", settings.train.precision))
    schedule = workspace.family.noise_schedule(workspace.source, settings.noise)
    evaluator = Evaluator(workspace.family, schedule, torch_device(workspace.profile), dtype, settings.noise.guidance)
    storage = storage_of(workspace, settings.memory)
    found = _losses_with_adapters(context, storage, evaluator, samples, progress)
    if storage.dense:
        return found
    # The quantised base is gone by now.
    dense = _dense_base_loss(context, evaluator, samples)
    if dense is not None:
        quantised = found.mean["held_out_loss"].base
        figures = (quantised, storage.title, dense, 100 * (quantised / dense - 1))
        log.info("held-out loss of the base: %.6f as %s, %.6f dense (%+.2f %%)", *figures)
    return replace(found, dense_base=dense)


def _losses_with_adapters(
    context: MetricsContext, storage: Storage, evaluator: Evaluator, samples: list[HeldOut], progress: _Progress
) -> _HeldOutLosses:
    workspace, settings = context.workspace, context.settings
    denoiser: Any = load_base(workspace, evaluator.dtype, storage)

    def losses_with(lora: Published) -> dict[str, float]:
        with held_out_with_lora(workspace, settings.text, denoiser, file_for_diffusers(lora), samples) as read:
            return means(evaluator.losses(denoiser, read, all_levels(read), progress))

    base = _base_losses(context, storage, evaluator, samples, lambda: denoiser, progress)
    lora = losses_with(context.upstream["lora_checkpoint"])
    by_sample = {name: BaseAndLora(base[name], lora[name]) for name in sorted(base)}
    if (champion := _champion_to_measure(context)) is None:
        return _HeldOutLosses(by_sample)
    losses = losses_with(champion)
    of_champion = {name: losses[name] for name in sorted(losses)}
    return _HeldOutLosses(by_sample, ChampionLoss(champion.data_version, fmean(of_champion.values()), of_champion))


def _base_losses(  # noqa: PLR0913 - what is measured, of what, and who is told
    context: MetricsContext,
    storage: Storage,
    evaluator: Evaluator,
    samples: list[HeldOut],
    load: Callable[[], Any],
    progress: Callable[[], None],
) -> dict[str, float]:
    """Return each sample's loss of the base in a scheme; `load` is called where one is not known."""
    workspace, settings = context.workspace, context.settings
    precision = workspace.precision("train", settings.train.precision)
    remembered = base_losses(workspace, settings.noise, precision, context.upstream, storage)
    return means(
        remembered.complete(samples, lambda missing: evaluator.losses(load(), missing, all_levels(missing), progress))
    )


def _dense_base_loss(context: MetricsContext, evaluator: Evaluator, samples: list[HeldOut]) -> float | None:
    """Measure the base in full precision, beside the quantised one; None where it does not fit into memory."""
    load = partial(load_base, context.workspace, evaluator.dtype, DENSE)
    try:
        return fmean(_base_losses(context, DENSE, evaluator, samples, load, lambda: None).values())
    except torch.OutOfMemoryError:
        log.warning("the held-out loss of the dense base is not measured: the base does not fit into memory whole")
        return None


def _champion_to_measure(context: MetricsContext) -> Published | None:
    """Return the champion's LoRA if it was not measured in this very examination before, and fits this base."""
    champion = promotion.find_champion(context.workspace.store, context.workspace.name)
    if champion is None or champion.lora.data_version == context.upstream["lora_checkpoint"].data_version:
        return None
    of_this_base = same_base(champion.lora.recipe["inputs"], context.upstream["lora_checkpoint"].recipe["inputs"])
    known = ExamFigures.from_json(champion.metrics.metadata).exam == exam_key(context)
    return champion.lora if of_this_base and not known else None


def _exam_scores(
    context: MetricsContext, progress: _Progress
) -> tuple[dict[str, BaseAndLora], dict[str, PictureScores]]:
    """Score pictures of the gate's prompts, by the base and with the LoRA; return figures, and scores by picture."""
    workspace, gate = context.workspace, context.settings.gate
    if not gate.concept_prompts + gate.other_prompts:
        return {}, {}
    exam = _exam(context)
    storage = rendered_storage(workspace, context.settings.memory, context.settings.sample.quantise)
    pipeline = open_pipeline(workspace, context.settings.noise, storage)
    inputs = prompt_inputs(workspace.family, context.settings.text)
    base = score_exam(exam, render_exam(pipeline, inputs, exam, progress))
    load_lora(pipeline, file_for_diffusers(context.upstream["lora_checkpoint"]), workspace.family.spec)
    lora = score_exam(exam, render_exam(pipeline, inputs, exam, progress))
    return (
        {name: BaseAndLora(base.figures[name], lora.figures[name]) for name in base.figures},
        {name: PictureScores(base.judged[name], lora.judged[name]) for name in base.judged},
    )


def _exam(context: MetricsContext) -> Exam:
    gate = context.settings.gate
    scores: dict[str, Score] = {}
    if gate.judge is not None:
        scores[""] = load_judge(gate.judge)
    if gate.clip_path is not None:
        scores["clip_"] = load_clip_score(gate.clip_path, torch_device(context.workspace.profile))
    side = context.settings.bucket.resolution
    settings = render_settings(context.workspace, context.settings.sample, side, exam_prompts(context), gate.seed)
    return Exam(gate.concept_prompts, gate.other_prompts, gate.pictures, settings, scores)
