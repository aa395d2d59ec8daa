"""The LoRA: trained from the caches, exported, and described by where it came from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.errors import ConfigError, LoraAssetsError
from trainer_core.stages.base import Outcome, Stage, StageContext
from trainer_core.stages.entries import control_keys_of, keys_of, read_controls, read_latents, read_text
from trainer_core.stages.exports import (
    PROOF,
    READS,
    TRAINING_READS,
    base_modules,
    base_name,
    export_all,
    export_snapshot,
    lineage,
    published_names,
)
from trainer_core.stages.live_text import drawn_captions, encodes_live, load_live_text, read_anew
from trainer_core.store.keys import digest
from trainer_core.types import JSON, Finding, Sample

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.export.names import Modules
    from trainer_core.sampling.evaluate import HeldOut
    from trainer_core.stages.selection import Selection
    from trainer_core.train.batches import CachedSamples
    from trainer_core.train.loop import TrainOutcome
    from trainer_core.train.trainer import Evaluation, Trainer, TrainerParts

log = logging.getLogger(__name__)

NAME = "lora_checkpoint"
SNAPSHOTS = "snapshots"


def _inputs(context: StageContext) -> JSON:
    return {**_run_inputs(context), "base_name": base_name(context.session)}


def _run_inputs(context: StageContext) -> dict[str, JSON]:
    session = context.session
    return {
        "weights": session.weights(session.family.spec.denoiser_components),
        "precision": session.precision("train", context.settings.train.precision),
        "family": session.family.spec.identity,
    }


def run_key(context: StageContext) -> str:
    """Return the key of the training run: everything of the stage's recipe that its weights and snapshots depend on.

    How they are written to files is left out, so another `export.formats` exports again and trains nothing.
    """
    from trainer_core.config.reads import slice_key

    upstream = {name: published.data_version for name, published in context.upstream.items()}
    settings = slice_key(context.session.project, TRAINING_READS)
    del settings["train"]["select"]  # which step is taken changes none of them
    return digest({"run": _RUN, "settings": settings, "inputs": _run_inputs(context), "upstream": upstream})


def _run(context: StageContext) -> Outcome:
    from trainer_core.hardware.placement import peak_memory_mib, torch_work

    workdir = context.session.store.root / "runs" / run_key(context)
    workdir.mkdir(parents=True, exist_ok=True)
    # Recipes that differ in how the file is written share a run: one trains, the others find it done.
    with (
        torch_work(context.session.profile, context.settings.hardware.threads),
        context.session.store.lock(f"run-{workdir.name}"),
    ):
        if context.settings.hardware.num_processes > 1:
            from trainer_core.stages.launch import train_in_processes

            # Damaged entries are found, and healed, before several processes meet them.
            cached_samples(context)
            outcome = train_in_processes(context, workdir)
        else:
            outcome = train_here(context, workdir)
    step, adapter = _select(context, workdir, outcome)
    modules = base_modules(context)
    exports = export_all(context, modules, adapter, step)
    metrics = _collect(context, workdir, step, modules)
    metadata: dict[str, JSON] = {
        "run": workdir.name,
        "steps": context.settings.train.steps,
        "selected_step": step,
        "held_out_losses": {str(at): loss for at, loss in sorted(selection_of(context, workdir).losses().items())},
        "steps_per_second": outcome.steps_per_second or None,
        "final_loss": metrics[-1]["loss"] if metrics else None,
        "peak_memory_mib": round(peak_memory_mib(), 1),
        "weights_sha256": exports.weights_sha256,
        "lineage": lineage(context, step),
        "rendered": exports.rendered,
        "proof": [proof.as_dict() for proof in exports.proofs],
        "rank": context.settings.adapter.rank,
        "alpha": context.settings.adapter.alpha,
        "trained_samples": sum(sample.split == "train" for sample in context.session.manifest.samples),
    }
    total = context.settings.train.steps
    return Outcome(
        exports.weights_sha256, metadata, items_computed=outcome.steps_run, items_reused=total - outcome.steps_run
    )


def train_here(context: StageContext, workdir: Path) -> TrainOutcome:
    """Train in this process (one of several when a launcher started it)."""
    from trainer_core.export.snapshots import write_snapshot
    from trainer_core.train.accelerator import make_accelerator
    from trainer_core.train.loop import run
    from trainer_core.train.trainer import prepare

    session, settings = context.session, context.settings
    precision = session.precision("train", settings.train.precision)
    accelerator = make_accelerator(session.profile, precision, settings.train.gradient_accumulation_steps)
    selection, held_out = selection_of(context, workdir), held_out_samples(context)
    if held_out and accelerator.is_main_process:
        selection.refuse_checkpoints_without_losses(workdir / "checkpoints")
    accelerator.wait_for_everyone()
    trainer = prepare(training_parts(context, accelerator.device), workdir, session.report, accelerator)
    (workdir / SNAPSHOTS).mkdir(exist_ok=True)
    if held_out and accelerator.is_main_process:
        selection.forget_after(trainer.step)
        trainer.evaluation = _evaluation(context, trainer, selection, held_out)

    def snapshot(step: int, adapter: Mapping[str, Tensor]) -> None:
        write_snapshot(workdir / SNAPSHOTS / f"step-{step:08d}.safetensors", adapter)

    trainer.on_step = snapshot
    return run(trainer)


def selection_of(context: StageContext, workdir: Path) -> Selection:
    """Return the held-out losses of a run."""
    from trainer_core.stages.selection import Selection

    train = context.settings.train
    return Selection(workdir, train.evaluate_every or max(1, train.steps // 10), train.steps)


def held_out_samples(context: StageContext) -> list[HeldOut]:
    """Read what the caches hold of the held-out samples, verified.

    Raises:
        DamagedEntries: some were damaged; they were dropped and must be encoded again.
    """
    from trainer_core.sampling.evaluate import HeldOut

    session = context.session
    samples = [sample for sample in session.manifest.samples if sample.split == "held_out"]
    ids = [sample.id for sample in samples]
    latents = read_latents(session.store, keys_of(context.upstream["cached_latents"], ids))
    text = read_text(session.store, keys_of(context.upstream["cached_text_embeddings"], ids))
    controls = read_controls(session.store, control_keys_of(context.upstream["cached_latents"], samples))
    return [
        HeldOut(one.id, latents[one.id].float(), text[one.id], one.geometry, _floats(controls.get(one.id, ())))
        for one in samples
    ]


def _floats(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor.float() for tensor in tensors)


def _evaluation(context: StageContext, trainer: Trainer, selection: Selection, held_out: list[HeldOut]) -> Evaluation:
    """Return the measurement of the held-out loss, which keeps the best weights."""
    from statistics import fmean

    from trainer_core.sampling.evaluate import Evaluator
    from trainer_core.train.live_text import set_training
    from trainer_core.train.trainer import Evaluation

    device, dtype = trainer.accelerator.device, trainer.loader.dtype
    guidance = context.settings.noise.guidance
    evaluator = Evaluator(trainer.family, trainer.schedule, device, dtype, guidance)

    def measure(step: int) -> None:
        set_training(trainer.parts, False)
        live = trainer.live_text
        # What was cached is what the base's encoders say.
        samples = held_out if live is None else read_anew(live, held_out, context.session)
        loss = fmean(evaluator.losses(trainer.denoiser, samples, lambda: None).values())
        set_training(trainer.parts, True)
        selection.add(step, loss, trainer.adapter_state())

    return Evaluation(selection.due, measure)


def _select(context: StageContext, workdir: Path, outcome: TrainOutcome) -> tuple[int, Mapping[str, Tensor]]:
    """Return the step that becomes the LoRA, and its weights.

    Raises:
        LoraAssetsError: the weights of the best step were damaged since they were measured.
    """
    selection, last = selection_of(context, workdir), context.settings.train.steps
    best = selection.best()
    if context.settings.train.select == "last" or best is None or best == last:
        return last, outcome.adapter
    weights = selection.best_weights()
    if weights is None:
        message = f"{workdir}: the weights of step {best}, the best, were damaged after they were measured. "
        raise LoraAssetsError(message + "Run again: training goes back to before it.")
    return best, weights


def training_parts(context: StageContext, device: Any) -> TrainerParts:
    """Load the base and the caches: what a run is made of."""
    from trainer_core.data.order import Order
    from trainer_core.hardware.placement import place, torch_dtype, use_attention
    from trainer_core.train.batches import RESIDENT_LIMIT, BatchLoader
    from trainer_core.train.trainer import TrainerParts

    session, settings = context.session, context.settings
    train = trained_samples(context)
    precision = session.precision("train", settings.train.precision)
    dtype = torch_dtype(precision)
    cache = cached_samples(context)
    if cache.nbytes() <= RESIDENT_LIMIT:
        cache = cache.resident(device, dtype)
    denoiser = place(session.family.load_denoiser(session.source, dtype), session.profile)
    use_attention(denoiser, session.profile.attention)
    order = Order.of(train, settings.train.batch_size, settings.train.seed)
    live = encodes_live(session.project)
    for finding in session.caption_findings:
        log.warning("%s", finding)
    return TrainerParts(
        project=settings,
        family=session.family,
        schedule=session.family.noise_schedule(session.source, settings.noise),
        denoiser=denoiser,
        precision=precision,
        loader=BatchLoader(
            order, cache, device, dtype, settings.noise.offset, drawn_captions(session) if live else None
        ),
        live_text=load_live_text(session) if live else None,
    )


def trained_samples(context: StageContext) -> list[Sample]:
    """Return the samples that are not held out.

    Raises:
        ConfigError: there is none.
    """
    samples = context.session.manifest.samples
    if train := [sample for sample in samples if sample.split == "train"]:
        return train
    message = f"all {len(samples)} samples are held out: none is left to train on."
    raise ConfigError([Finding("error", "datasets.held_out", message, "Lower held_out or add pictures.")])


def cached_samples(context: StageContext) -> CachedSamples:
    """Read what the caches hold of the training samples, verified.

    Raises:
        DamagedEntries: some were damaged; they were dropped and must be encoded again.
    """
    from trainer_core.train.batches import CachedSamples

    train, store = trained_samples(context), context.session.store
    ids = [sample.id for sample in train]
    live = encodes_live(context.session.project)
    return CachedSamples(
        read_latents(store, keys_of(context.upstream["cached_latents"], ids)),
        {} if live else read_text(store, keys_of(context.upstream["cached_text_embeddings"], ids)),
        {sample.id: sample.geometry for sample in train},
        read_controls(store, control_keys_of(context.upstream["cached_latents"], train)),
    )


def _collect(context: StageContext, workdir: Path, selected: int, modules: Modules) -> list[dict[str, Any]]:
    """Put the run's curve and its exported snapshots into the result."""
    import shutil

    from trainer_core.export.snapshots import read_snapshot
    from trainer_core.train.curves import write_loss_curve
    from trainer_core.train.metrics import read_metrics

    for snapshot in sorted((workdir / SNAPSHOTS).glob("step-*.safetensors")):
        if (adapter := read_snapshot(snapshot)) is not None:
            target = context.staging / SNAPSHOTS / snapshot.name
            target.parent.mkdir(exist_ok=True)
            export_snapshot(context, modules, adapter, target, int(snapshot.stem.removeprefix("step-")))
    metrics = read_metrics(workdir / "metrics.jsonl")
    shutil.copyfile(workdir / "metrics.jsonl", context.staging / "training.jsonl")
    held_out = selection_of(context, workdir).losses()
    write_loss_curve(metrics, held_out, selected, context.staging / "loss_curve.png")
    return [{"step": line.step, "loss": line.loss} for line in metrics]


_RUN = 2
"""Raise it when the same settings would train other weights."""
LORA_CHECKPOINT = Stage(
    name=NAME,
    version=3,
    description="The LoRA, trained from the caches and exported in several formats, each proven to hold it.",
    reads=(*TRAINING_READS, *READS),
    needs=("cached_latents", "cached_text_embeddings"),
    run=_run,
    inputs=_inputs,
    total=lambda context: context.settings.train.steps,
    outputs={
        **published_names(),
        "training.jsonl": "training.jsonl",
        "loss_curve.png": "loss_curve.png",
        PROOF: PROOF,
    },
)
