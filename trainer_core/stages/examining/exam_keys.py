"""What `metrics` reads, and what its figures must share to be compared. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from trainer_core.config.groups import NoiseConfig, TextConfig
from trainer_core.config.reads import GroupPart, KeyedBy, StageSettings
from trainer_core.data.epoch.held_out import chosen_held_out
from trainer_core.stages.caching.entries import control_keys_of, keys_of
from trainer_core.stages.group_parts import BaseStorage, Resolution, Threads, TrainPrecision
from trainer_core.stages.project.quantised_base import storage_key, storage_of
from trainer_core.stages.rendering.encoded_prompts import encoded_key
from trainer_core.stages.rendering.prompts import Prompts, own_prompts
from trainer_core.stages.rendering.renderer import RenderedSample, render_precision, rendered_storage
from trainer_core.stages.stage import StageContext
from trainer_core.store.keys import digest
from trainer_core.types import JSON, FileStat, Sample

NAME = "metrics"
METRICS = "metrics.json"
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
class MeasuredTraining(TrainPrecision):
    """What of training decides losses, of the group `train`."""

    evaluate_samples: int


@dataclass(frozen=True)
class MetricsSettings(StageSettings):
    """The settings that decide what is measured, and how."""

    noise: NoiseConfig
    train: MeasuredTraining
    bucket: Resolution
    hardware: Threads
    gate: ExamQuestions
    sample: RenderedSample
    memory: Annotated[BaseStorage, KeyedBy("`base_storage` among the inputs, where the base is not dense")]
    text: Annotated[
        TextConfig, KeyedBy("`encoded prompts` among the inputs, and the version of cached_text_embeddings")
    ]


MetricsContext = StageContext[MetricsSettings]


def exam_inputs(context: MetricsContext) -> dict[str, JSON]:
    """Return what decides the figures besides settings and upstream results: weights, precisions, what is held out."""
    workspace = context.workspace
    gate = context.settings.gate
    controls = exam_prompts(context).key
    encoded = encoded_key(workspace.family.spec, context.settings.text)
    return {
        **({"control pictures": controls} if controls else {}),
        **({"encoded prompts": encoded} if encoded else {}),
        **_storage_inputs(context),
        "weights": dict(workspace.fingerprints),
        "precision": workspace.precision("train", context.settings.train.precision),
        "rendered_in": render_precision(workspace),
        "held_out": sorted(sample.id for sample in measured_samples(context)),
        "judge": _hashes(context, [gate.judge] if gate.judge else []),
        "clip": _hashes(context, _clip_files(gate.clip_path)),
    }


def measured_samples(context: MetricsContext) -> list[Sample]:
    """Return the held-out samples whose losses are measured, at most `train.evaluate_samples`."""
    return chosen_held_out(context.workspace.manifest.samples, context.settings.train.evaluate_samples)


def _storage_inputs(context: MetricsContext) -> dict[str, JSON]:
    """Return how the base is held for losses and for pictures; nothing where it is dense for both."""
    memory, quantise = context.settings.memory, context.settings.sample.quantise
    trained, rendered = storage_of(context.workspace, memory), rendered_storage(context.workspace, memory, quantise)
    of_pictures: dict[str, JSON] = {} if rendered == trained else {"rendered_base": rendered.key}
    return {**storage_key(trained), **of_pictures}


def exam_prompts(context: MetricsContext) -> Prompts:
    """Return the prompts of the exam, those of the concept first, with their control pictures."""
    gate = context.settings.gate
    return own_prompts(gate.concept_prompts + gate.other_prompts, gate.control_paths, context.workspace)


def _hashes(context: MetricsContext, files: list[Path]) -> dict[str, str]:
    """File name -> SHA-256 of what scores pictures; a missing file is an error where it is needed."""
    found = {str(path): FileStat.of_path(path) for path in files if path.is_file()}
    return {Path(path).name: sha256 for path, sha256 in context.workspace.store.index.file_hashes(found).items()}


def _clip_files(folder: Path | None) -> list[Path]:
    return [] if folder is None else sorted(path for kind in _CLIP_FILES for path in folder.glob(kind))


def exam_key(context: MetricsContext) -> str:
    """Digest of what held-out losses must share to be compared: base, noise, and what is held out."""
    workspace = context.workspace
    samples = measured_samples(context)
    ids = [sample.id for sample in samples]
    held_out: list[JSON] = [
        keys_of(context.upstream[name], ids) for name in ("cached_latents", "cached_text_embeddings")
    ]
    if controls := control_keys_of(context.upstream["cached_latents"], samples):
        held_out.append({name: list(keys) for name, keys in controls.items()})
    weights: dict[str, JSON] = {
        **workspace.weights(workspace.family.spec.denoiser_components),
        **storage_key(storage_of(workspace, context.settings.memory)),
    }
    noise = context.settings.noise.model_dump(mode="json")
    return digest([weights, workspace.precision("train", context.settings.train.precision), noise, held_out])


def picture_exam_key(context: MetricsContext) -> str:
    """Digest of what concept scores must share to be compared picture by picture; empty where none are given."""
    gate, sample, noise = context.settings.gate, context.settings.sample, context.settings.noise
    if gate.judge is None or not gate.concept_prompts:
        return ""
    inputs = {name: part for name, part in exam_inputs(context).items() if name not in _NOT_OF_CONCEPT_PICTURES}
    questions = [list(gate.concept_prompts), gate.pictures, gate.seed, context.settings.bucket.resolution]
    rendered = {name: value for name, value in asdict(sample).items() if name != "quantise"}
    return digest([inputs, questions, rendered, noise.prediction, noise.zero_terminal_snr])


def measurements(context: MetricsContext) -> int:
    """Return how many losses and pictures are measured, of base and LoRA."""
    gate = context.settings.gate
    held_out = len(measured_samples(context))
    return 2 * (held_out + len(gate.concept_prompts + gate.other_prompts) * gate.pictures)
