"""Held-out loss of base and LoRA, from the exported file."""

from __future__ import annotations

import json
from statistics import fmean
from typing import TYPE_CHECKING, Any

from trainer_core.stages.base import Outcome, Stage, StageContext
from trainer_core.stages.entries import keys_of, read_latents, read_text
from trainer_core.stages.lora_checkpoint import LORA
from trainer_core.store.keys import digest
from trainer_core.types import JSON

if TYPE_CHECKING:
    from trainer_core.sampling.evaluate import HeldOut

NAME = "metrics"
METRICS = "metrics.json"


def _inputs(context: StageContext) -> JSON:
    session = context.session
    return {
        "weights": session.weights(session.family.spec.denoiser_components),
        "precision": session.precision("train", context.settings.train.precision),
        "held_out": sorted(sample.id for sample in session.manifest.samples if sample.split == "held_out"),
    }


def _run(context: StageContext) -> Outcome:
    from trainer_core.hardware.placement import torch_work

    with torch_work(context.session.profile, context.settings.hardware.threads):
        base, lora = _losses(context)
    count = len(base)
    figures: dict[str, JSON] = {
        "held_out_samples": count,
        "held_out_loss_base": fmean(base.values()) if count else None,
        "held_out_loss_lora": fmean(lora.values()) if count else None,
        "held_out_loss_change": fmean(lora.values()) / fmean(base.values()) - 1 if count else None,
        "by_sample": {name: {"base": base[name], "lora": lora[name]} for name in sorted(base)},
        "weights_sha256": context.upstream["lora_checkpoint"].data_version,
    }
    (context.staging / METRICS).write_text(json.dumps(figures, indent=2, sort_keys=True))
    return Outcome(digest(figures), figures, items_computed=2 * count)


def _losses(context: StageContext) -> tuple[dict[str, float], dict[str, float]]:
    """Return the held-out losses of the base, then of the same base with the exported LoRA."""
    from trainer_core.hardware.placement import place, torch_device, torch_dtype, use_attention
    from trainer_core.sampling.evaluate import Evaluator

    session, settings = context.session, context.settings
    samples = _held_out(context)
    if not samples:
        return {}, {}
    done = [0]

    def tell() -> None:
        done[0] += 1
        context.report(NAME, done[0], 2 * len(samples), "sample")

    dtype = torch_dtype(session.precision("train", settings.train.precision))
    schedule = session.family.noise_schedule(session.source, settings.noise)
    evaluator = Evaluator(session.family, schedule, torch_device(session.profile), dtype, settings.noise.guidance)
    denoiser: Any = place(session.family.load_denoiser(session.source, dtype), session.profile)
    use_attention(denoiser, session.profile.attention)
    base = evaluator.losses(denoiser, samples, tell)
    path = context.upstream["lora_checkpoint"].file(LORA)
    denoiser.load_lora_adapter(str(path.parent), weight_name=path.name, prefix=session.family.spec.denoiser)
    return base, evaluator.losses(denoiser, samples, tell)


def _held_out(context: StageContext) -> list[HeldOut]:
    from trainer_core.sampling.evaluate import HeldOut

    session = context.session
    samples = [sample for sample in session.manifest.samples if sample.split == "held_out"]
    ids = [sample.id for sample in samples]
    latents = read_latents(session.store, keys_of(context.upstream["cached_latents"], ids))
    text = read_text(session.store, keys_of(context.upstream["cached_text_embeddings"], ids))
    return [HeldOut(one.id, latents[one.id].float(), text[one.id], one.geometry) for one in samples]


METRICS_STAGE = Stage(
    name=NAME,
    version=1,
    description="Held-out loss with fixed noise and sigmas, before and after, measured from the exported file.",
    reads=("noise", "train.precision", "hardware.threads"),
    needs=("cached_latents", "cached_text_embeddings", "lora_checkpoint"),
    run=_run,
    inputs=_inputs,
    total=lambda context: 2 * sum(sample.split == "held_out" for sample in context.session.manifest.samples),
    outputs={METRICS: "metrics.json"},
)
