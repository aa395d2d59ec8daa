"""The examination of a finished LoRA, from its file: held-out loss, and scores of pictures of fixed prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

from trainer_core.config.groups import NoiseConfig, TextConfig
from trainer_core.config.reads import GroupPart, KeyedBy, StageSettings
from trainer_core.families.shared import loading
from trainer_core.hardware.placement import move_to_device, torch_device, torch_dtype, torch_work, use_attention
from trainer_core.stages.caching.entries import control_keys_of, keys_of
from trainer_core.stages.group_parts import Resolution, Threads, TrainPrecision
from trainer_core.stages.project.session import Session
from trainer_core.stages.publishing import promotion
from trainer_core.stages.publishing.lora_names import LORA, file_for_diffusers, same_base
from trainer_core.stages.publishing.model_card import publish_card
from trainer_core.stages.publishing.outputs import publish_outputs
from trainer_core.stages.rendering.encoded_prompts import encoded_key, prompt_inputs
from trainer_core.stages.rendering.prompts import Prompts, own_prompts
from trainer_core.stages.rendering.renderer import RenderedSample, open_pipeline, render_precision, render_settings
from trainer_core.stages.results import BaseAndLora, ChampionLoss, ExamFigures, PictureScores
from trainer_core.stages.stage import Outcome, Stage, StageContext
from trainer_core.store import Published
from trainer_core.store.keys import digest
from trainer_core.types import JSON, FileStat

if TYPE_CHECKING:
    from trainer_core.sampling.exam import Exam

NAME = "metrics"
METRICS = "metrics.json"
CHAMPION = "champion.safetensors"
"""In `outputs/NAME/`: the LoRA that was promoted last."""
_CLIP_FILES = ("*.json", "*.safetensors", "*.txt")
_NOT_OF_CONCEPT_PICTURES = ("clip", "held_out", "precision")
"""Inputs that change neither a picture nor what the judge says of it."""


@dataclass(frozen=True)
class ExamQuestions(GroupPart):
    """What a LoRA is examined on, of the group `gate`; its limits are not read."""

    judge: Path | None
    clip_path: Path | None
    concept_prompts: tuple[str, ...]
    other_prompts: tuple[str, ...]
    control_paths: tuple[tuple[Path, ...], ...]
    pictures: int
    seed: int


@dataclass(frozen=True)
class MetricsSettings(StageSettings):
    """The settings that decide what is measured, and how."""

    noise: NoiseConfig
    train: TrainPrecision
    bucket: Resolution
    hardware: Threads
    gate: ExamQuestions
    sample: RenderedSample
    text: Annotated[
        TextConfig, KeyedBy("`encoded prompts` among the inputs, and the version of cached_text_embeddings")
    ]


MetricsContext = StageContext[MetricsSettings]


def _inputs(context: MetricsContext) -> dict[str, JSON]:
    workspace = context.workspace
    gate = context.settings.gate
    controls = _exam_prompts(context).key
    encoded = encoded_key(workspace.family.spec, context.settings.text)
    return {
        **({"control pictures": controls} if controls else {}),
        **({"encoded prompts": encoded} if encoded else {}),
        "weights": dict(workspace.fingerprints),
        "precision": workspace.precision("train", context.settings.train.precision),
        "rendered_in": render_precision(workspace),
        "held_out": sorted(sample.id for sample in workspace.manifest.samples if sample.split == "held_out"),
        "judge": _hashes(context, [gate.judge] if gate.judge else []),
        "clip": _hashes(context, _clip_files(gate.clip_path)),
    }


def _exam_prompts(context: MetricsContext) -> Prompts:
    gate = context.settings.gate
    return own_prompts(gate.concept_prompts + gate.other_prompts, gate.control_paths, context.workspace)


def _hashes(context: MetricsContext, files: list[Path]) -> dict[str, str]:
    """File name -> SHA-256 of what scores pictures; a missing file is an error where it is needed."""
    found = {str(path): FileStat.of_path(path) for path in files if path.is_file()}
    return {Path(path).name: sha256 for path, sha256 in context.workspace.store.index.file_hashes(found).items()}


def _clip_files(folder: Path | None) -> list[Path]:
    return [] if folder is None else sorted(path for kind in _CLIP_FILES for path in folder.glob(kind))


def _exam_key(context: MetricsContext) -> str:
    """Digest of what held-out losses must share to be compared: base, noise, and what is held out."""
    workspace = context.workspace
    samples = [sample for sample in workspace.manifest.samples if sample.split == "held_out"]
    ids = [sample.id for sample in samples]
    held_out: list[JSON] = [
        keys_of(context.upstream[name], ids) for name in ("cached_latents", "cached_text_embeddings")
    ]
    if controls := control_keys_of(context.upstream["cached_latents"], samples):
        held_out.append({name: list(keys) for name, keys in controls.items()})
    weights = workspace.weights(workspace.family.spec.denoiser_components)
    noise = context.settings.noise.model_dump(mode="json")
    return digest([weights, workspace.precision("train", context.settings.train.precision), noise, held_out])


def _picture_exam_key(context: MetricsContext) -> str:
    """Digest of what concept scores must share to be compared picture by picture; empty where none are given."""
    gate, sample, noise = context.settings.gate, context.settings.sample, context.settings.noise
    if gate.judge is None or not gate.concept_prompts:
        return ""
    inputs = {name: part for name, part in _inputs(context).items() if name not in _NOT_OF_CONCEPT_PICTURES}
    questions = [list(gate.concept_prompts), gate.pictures, gate.seed, context.settings.bucket.resolution]
    return digest([inputs, questions, asdict(sample), noise.prediction, noise.zero_terminal_snr])


def _run(context: MetricsContext) -> Outcome:
    lora = context.upstream["lora_checkpoint"]
    progress = _Progress(context)
    with torch_work(context.workspace.profile, context.settings.hardware.threads):
        losses = _held_out_losses(context, progress)
        figures, scores = _exam_scores(context, progress)
    exam = ExamFigures(
        held_out_samples=len(losses.by_sample),
        weights_sha256=lora.data_version,
        exam=_exam_key(context),
        figures=losses.mean | figures,
        by_sample=losses.by_sample,
        champion=losses.champion,
        picture_exam=_picture_exam_key(context),
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
        self.context.report(NAME, self.done, max(self.done, _total(self.context)), "measurement")


@dataclass(frozen=True)
class _HeldOutLosses:
    """Losses of the base and of the LoRA; empty where nothing is held out."""

    by_sample: Mapping[str, BaseAndLora] = field(default_factory=dict[str, BaseAndLora])
    champion: ChampionLoss | None = None

    @property
    def mean(self) -> dict[str, BaseAndLora]:
        """The figure `held_out_loss`."""
        if not (losses := self.by_sample.values()):
            return {}
        return {"held_out_loss": BaseAndLora(fmean(one.base for one in losses), fmean(one.lora for one in losses))}


def _held_out_losses(context: MetricsContext, progress: _Progress) -> _HeldOutLosses:
    """Measure the base, the same base with the exported LoRA, and with the champion's if it must be measured."""
    from trainer_core.sampling.evaluate import Evaluator
    from trainer_core.stages.training.live_text import held_out_with_lora
    from trainer_core.stages.training.training_data import held_out_samples

    workspace, settings = context.workspace, context.settings
    samples = held_out_samples(context.workspace, context.upstream)
    if not samples:
        return _HeldOutLosses()
    dtype = torch_dtype(workspace.precision("train", settings.train.precision))
    schedule = workspace.family.noise_schedule(workspace.source, settings.noise)
    evaluator = Evaluator(workspace.family, schedule, torch_device(workspace.profile), dtype, settings.noise.guidance)
    denoiser: Any = move_to_device(loading.load_denoiser(workspace.source, dtype), workspace.profile)
    use_attention(denoiser, workspace.profile.attention)

    def losses_with(lora: Published) -> dict[str, float]:
        with held_out_with_lora(workspace, settings.text, denoiser, file_for_diffusers(lora), samples) as read:
            return evaluator.losses(denoiser, read, progress)

    base = evaluator.losses(denoiser, samples, progress)
    lora = losses_with(context.upstream["lora_checkpoint"])
    by_sample = {name: BaseAndLora(base[name], lora[name]) for name in sorted(base)}
    if (champion := _champion_to_measure(context)) is None:
        return _HeldOutLosses(by_sample)
    losses = losses_with(champion)
    of_champion = {name: losses[name] for name in sorted(losses)}
    return _HeldOutLosses(by_sample, ChampionLoss(champion.data_version, fmean(of_champion.values()), of_champion))


def _champion_to_measure(context: MetricsContext) -> Published | None:
    """Return the champion's LoRA if it was not measured in this very examination before, and fits this base."""
    champion = promotion.find_champion(context.workspace.store, context.workspace.name)
    if champion is None or champion.lora.data_version == context.upstream["lora_checkpoint"].data_version:
        return None
    of_this_base = same_base(champion.lora.recipe["inputs"], context.upstream["lora_checkpoint"].recipe["inputs"])
    known = ExamFigures.from_json(champion.metrics.metadata).exam == _exam_key(context)
    return champion.lora if of_this_base and not known else None


def _exam_scores(
    context: MetricsContext, progress: _Progress
) -> tuple[dict[str, BaseAndLora], dict[str, PictureScores]]:
    """Score pictures of the gate's prompts, by the base and with the LoRA; return figures, and scores by picture."""
    workspace, gate = context.workspace, context.settings.gate
    if not gate.concept_prompts + gate.other_prompts:
        return {}, {}
    from trainer_core.sampling.exam import render_exam, score_exam
    from trainer_core.stages.rendering.lora_loading import load_lora

    exam = _exam(context)
    pipeline = open_pipeline(workspace, context.settings.noise)
    inputs = prompt_inputs(workspace.family, context.settings.text)
    base = score_exam(exam, render_exam(pipeline, inputs, exam, progress))
    load_lora(pipeline, file_for_diffusers(context.upstream["lora_checkpoint"]), workspace.family.spec)
    lora = score_exam(exam, render_exam(pipeline, inputs, exam, progress))
    return (
        {name: BaseAndLora(base.figures[name], lora.figures[name]) for name in base.figures},
        {name: PictureScores(base.judged[name], lora.judged[name]) for name in base.judged},
    )


def _exam(context: MetricsContext) -> Exam:
    from trainer_core.sampling.exam import Exam, Score, load_clip_score, load_judge

    gate = context.settings.gate
    scores: dict[str, Score] = {}
    if gate.judge is not None:
        scores[""] = load_judge(gate.judge)
    if gate.clip_path is not None:
        scores["clip_"] = load_clip_score(gate.clip_path, torch_device(context.workspace.profile))
    side = context.settings.bucket.resolution
    settings = render_settings(context.workspace, context.settings.sample, side, _exam_prompts(context), gate.seed)
    return Exam(gate.concept_prompts, gate.other_prompts, gate.pictures, settings, scores)


def _total(context: MetricsContext) -> int:
    gate = context.settings.gate
    held_out = sum(sample.split == "held_out" for sample in context.workspace.manifest.samples)
    return 2 * (held_out + len(gate.concept_prompts + gate.other_prompts) * gate.pictures)


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
    inputs=_inputs,
    total=_total,
    outputs={METRICS: "metrics.json"},
    after_publish=_after_publish,
)
