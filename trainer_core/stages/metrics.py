"""The examination of a finished LoRA, from its file: held-out loss, and scores of pictures of fixed prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from trainer_core.families.shared import loading
from trainer_core.stages.caching.entries import control_keys_of, keys_of
from trainer_core.stages.lora_checkpoint import held_out_samples
from trainer_core.stages.project.session import file_stat
from trainer_core.stages.publishing import promotion
from trainer_core.stages.publishing.lora_files import LORA, file_for_diffusers, same_base
from trainer_core.stages.publishing.model_card import publish_card
from trainer_core.stages.publishing.outputs import publish_outputs
from trainer_core.stages.rendering.encoded_prompts import encoded_key, prompt_inputs
from trainer_core.stages.rendering.prompts import Prompts, own_prompts
from trainer_core.stages.samples import precision, render_settings
from trainer_core.stages.stage import Outcome, Stage, StageContext
from trainer_core.stages.training.live_text import measured
from trainer_core.store import Published
from trainer_core.store.keys import digest
from trainer_core.types import JSON

if TYPE_CHECKING:
    from trainer_core.sampling.examine import Exam

NAME = "metrics"
METRICS = "metrics.json"
CHAMPION = "champion.safetensors"
"""In `outputs/NAME/`: the LoRA that was promoted last."""
_CLIP_FILES = ("*.json", "*.safetensors", "*.txt")


def _inputs(context: StageContext) -> JSON:
    session = context.session
    gate = context.settings.gate
    shown = _exam_prompts(context).key
    return {
        **({"control pictures": shown} if shown else {}),
        **({"encoded prompts": encoded} if (encoded := encoded_key(session)) else {}),
        "weights": dict(session.fingerprints),
        "precision": session.precision("train", context.settings.train.precision),
        "rendered_in": precision(session),
        "held_out": sorted(sample.id for sample in session.manifest.samples if sample.split == "held_out"),
        "judge": _hashes(context, [gate.judge] if gate.judge else []),
        "clip": _hashes(context, _clip_files(gate.clip_path)),
    }


def _exam_prompts(context: StageContext) -> Prompts:
    gate = context.settings.gate
    return own_prompts(gate.concept_prompts + gate.other_prompts, gate.control_paths, context.session)


def _hashes(context: StageContext, files: list[Path]) -> dict[str, str]:
    """File name -> SHA-256 of what scores pictures; a file that is not there is told when it is needed."""
    found = {str(path): file_stat(path) for path in files if path.is_file()}
    return {Path(path).name: sha256 for path, sha256 in context.session.store.index.file_hashes(found).items()}


def _clip_files(folder: Path | None) -> list[Path]:
    return [] if folder is None else sorted(path for kind in _CLIP_FILES for path in folder.glob(kind))


def _exam_key(context: StageContext) -> str:
    """Digest of what held-out losses must share to be compared: base, noise, and what is held out."""
    session = context.session
    samples = [sample for sample in session.manifest.samples if sample.split == "held_out"]
    ids = [sample.id for sample in samples]
    held_out: list[JSON] = [
        keys_of(context.upstream[name], ids) for name in ("cached_latents", "cached_text_embeddings")
    ]
    if controls := control_keys_of(context.upstream["cached_latents"], samples):
        held_out.append({name: list(keys) for name, keys in controls.items()})
    weights = session.weights(session.family.spec.denoiser_components)
    noise = context.settings.noise.model_dump(mode="json")
    return digest([weights, session.precision("train", context.settings.train.precision), noise, held_out])


def _run(context: StageContext) -> Outcome:
    from trainer_core.hardware.placement import torch_work

    lora = context.upstream["lora_checkpoint"]
    progress = _Progress(context)
    with torch_work(context.session.profile, context.settings.hardware.threads):
        figures = _held_out_figures(context, progress) | _exam_figures(context, progress)
    champion = figures.pop("champion", None)
    figures["weights_sha256"] = lora.data_version
    version = digest(figures)
    # The champion's figure is what the candidate is held against, not what this result means.
    figures |= {"exam": _exam_key(context)} | ({"champion": champion} if champion else {})
    (context.staging / METRICS).write_text(json.dumps(figures, indent=2, sort_keys=True))
    return Outcome(version, figures, items_computed=progress.done)


class _Progress:
    """Counts measurements: a loss of a held-out sample or a picture."""

    def __init__(self, context: StageContext) -> None:
        self.context, self.done = context, 0

    def __call__(self) -> None:
        """Count one."""
        self.done += 1
        self.context.report(NAME, self.done, max(self.done, _total(self.context)), "measurement")


def _held_out_figures(context: StageContext, progress: _Progress) -> dict[str, JSON]:
    """Losses of the base, of the same base with the exported LoRA, and with the champion's if it must be measured."""
    from trainer_core.hardware.placement import place, torch_device, torch_dtype, use_attention
    from trainer_core.sampling.evaluate import Evaluator

    session, settings = context.session, context.settings
    samples = held_out_samples(context)
    if not samples:
        return {"held_out_samples": 0}
    dtype = torch_dtype(session.precision("train", settings.train.precision))
    schedule = session.family.noise_schedule(session.source, settings.noise)
    evaluator = Evaluator(session.family, schedule, torch_device(session.profile), dtype, settings.noise.guidance)
    denoiser: Any = place(loading.load_denoiser(session.source, dtype), session.profile)
    use_attention(denoiser, session.profile.attention)

    def losses_with(lora: Published) -> dict[str, float]:
        with measured(session, denoiser, file_for_diffusers(lora), samples) as read:
            return evaluator.losses(denoiser, read, progress)

    base = evaluator.losses(denoiser, samples, progress)
    lora = losses_with(context.upstream["lora_checkpoint"])
    figures: dict[str, JSON] = {
        "held_out_samples": len(samples),
        "held_out_loss_base": fmean(base.values()),
        "held_out_loss_lora": fmean(lora.values()),
        "held_out_loss_change": fmean(lora.values()) / fmean(base.values()) - 1,
        "by_sample": {name: {"base": base[name], "lora": lora[name]} for name in sorted(base)},
    }
    if (champion := _champion_to_measure(context)) is not None:
        loss = fmean(losses_with(champion).values())
        figures["champion"] = {"weights_sha256": champion.data_version, "held_out_loss": loss}
    return figures


def _champion_to_measure(context: StageContext) -> Published | None:
    """Return the champion's LoRA if it was not measured in this very examination before, and fits this base."""
    champion = promotion.find_champion(context.session.store, context.session.project.name)
    if champion is None or champion.lora.data_version == context.upstream["lora_checkpoint"].data_version:
        return None
    of_this_base = same_base(champion.lora.recipe["inputs"], context.upstream["lora_checkpoint"].recipe["inputs"])
    measured = champion.metrics.metadata.get("exam") == _exam_key(context)
    return champion.lora if of_this_base and not measured else None


def _exam_figures(context: StageContext, progress: _Progress) -> dict[str, JSON]:
    """Scores of pictures of the gate's prompts, by the base and with the LoRA."""
    session, gate = context.session, context.settings.gate
    if not gate.concept_prompts + gate.other_prompts:
        return {}
    from trainer_core.hardware.placement import torch_device, torch_dtype
    from trainer_core.sampling.examine import measure, take
    from trainer_core.sampling.trained_noise import use_trained_noise
    from trainer_core.stages.rendering.lora_loading import load_lora

    exam = _exam(context)
    pipeline = loading.load_pipeline(session.source, torch_dtype(precision(session)))  # type: ignore[arg-type]
    use_trained_noise(pipeline, context.settings.noise, session.family.spec.prediction)
    pipeline.to(torch_device(session.profile))
    pipeline.set_progress_bar_config(disable=True)
    inputs = prompt_inputs(session)
    base = measure(exam, take(pipeline, inputs, exam, progress))
    load_lora(pipeline, file_for_diffusers(context.upstream["lora_checkpoint"]), session.family.spec)
    lora = measure(exam, take(pipeline, inputs, exam, progress))
    return {f"{name}_base": value for name, value in base.items()} | {
        f"{name}_lora": value for name, value in lora.items()
    }


def _exam(context: StageContext) -> Exam:
    from trainer_core.hardware.placement import torch_device
    from trainer_core.sampling.examine import Exam, Score, load_clip_score, load_judge

    gate = context.settings.gate
    scores: dict[str, Score] = {}
    if gate.judge is not None:
        scores[""] = load_judge(gate.judge)
    if gate.clip_path is not None:
        scores["clip_"] = load_clip_score(gate.clip_path, torch_device(context.session.profile))
    settings = render_settings(context.session, context.settings, _exam_prompts(context), gate.seed)
    return Exam(gate.concept_prompts, gate.other_prompts, gate.pictures, settings, scores)


def _total(context: StageContext) -> int:
    gate = context.settings.gate
    held_out = sum(sample.split == "held_out" for sample in context.session.manifest.samples)
    return 2 * (held_out + len(gate.concept_prompts + gate.other_prompts) * gate.pictures)


def figure_pairs(figures: Mapping[str, JSON]) -> list[tuple[str, float, float]]:
    """Return (name, the base's, the LoRA's) of every figure that was measured of both."""
    names = [name.removesuffix("_base") for name in figures if name.endswith("_base")]
    return [(name, float(figures[f"{name}_base"]), float(figures[f"{name}_lora"])) for name in names]


def _settle(context: StageContext, published: Published) -> Mapping[str, JSON]:
    lora, store = context.upstream["lora_checkpoint"], context.session.store
    # The limits decide nothing that is measured, so they are in no key, and a new limit is in force at once.
    project = context.session.project
    verdict = promotion.settle(store, project.name, lora, published, project.gate)
    if (champion := promotion.find_champion(store, project.name)) is not None:
        target = context.session.outputs / CHAMPION
        known = store.index.file_hashes({str(target): file_stat(target)}) if target.is_file() else {}
        publish_outputs(context.session.outputs, champion.lora, {LORA: CHAMPION}, known)
    publish_card(context.session, lora, published, verdict)
    return {"promoted": verdict.promoted, "reasons": list(verdict.reasons)}


METRICS_STAGE = Stage(
    name=NAME,
    version=3,
    description="Held-out loss with fixed noise and sigmas, and scores of pictures of fixed prompts and seeds, of base "
    "and LoRA, measured from the exported file. They decide whether it becomes the project's champion.",
    reads=(
        *("noise", "train.precision", "bucket.resolution", "hardware.threads"),
        *("gate.judge", "gate.clip_path", "gate.concept_prompts", "gate.other_prompts", "gate.control_paths"),
        *("gate.pictures", "gate.seed"),
        *("sample.negative_prompt", "sample.steps", "sample.guidance", "sample.width", "sample.height"),
        "sample.sampler",
    ),
    needs=("cached_latents", "cached_text_embeddings", "lora_checkpoint"),
    run=_run,
    inputs=_inputs,
    total=_total,
    outputs={METRICS: "metrics.json"},
    settle=_settle,
)
