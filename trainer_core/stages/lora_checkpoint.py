"""The LoRA: trained from the caches, exported, and described by where it came from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.config.reads import slice_key
from trainer_core.data.captions.sample_captions import encoded_live
from trainer_core.errors import ConfigError, LoraAssetsError
from trainer_core.families.shared import loading
from trainer_core.stages.caching.caption_entries import live_captions, names_needed, text_choice
from trainer_core.stages.caching.entries import control_keys_of, keys_of, read_controls, read_latents, read_text
from trainer_core.stages.caching.view_entries import mask_keys_of, read_masks, seen_geometries, view_ids
from trainer_core.stages.publishing.lora_files import (
    PROOF,
    READS,
    TRAINING_READS,
    base_modules,
    base_name,
    export_all,
    export_snapshot,
    lineage,
    published_names,
    replaced_components,
)
from trainer_core.stages.stage import Outcome, Stage, StageContext
from trainer_core.stages.training.best_checkpoint import Selection
from trainer_core.stages.training.continuation import Continuation
from trainer_core.stages.training.disk_budget import Footprint, ensure_room
from trainer_core.stages.training.init_from import initial_key, initial_layers
from trainer_core.stages.training.intermediate_saves import (
    SNAPSHOTS,
    Marks,
    Saver,
    collect_saves,
    is_saved_output,
    snapshot_path,
)
from trainer_core.stages.training.live_text import load_live_text, read_anew
from trainer_core.store.keys import digest
from trainer_core.train.run_state.run_record import RunRecord
from trainer_core.types import JSON, Finding, Sample

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.export.module_names import Modules
    from trainer_core.sampling.evaluate import HeldOut
    from trainer_core.train.batches import CachedSamples
    from trainer_core.train.loop import TrainOutcome
    from trainer_core.train.observe.trackers import RunFolders
    from trainer_core.train.trainer import Evaluation, Trainer, TrainerParts

log = logging.getLogger(__name__)

NAME = "lora_checkpoint"


def _inputs(context: StageContext) -> JSON:
    replaced = replaced_components(context.session)
    named = {"base_name": base_name(context.session), **({"replaced_components": replaced} if replaced else {})}
    return {**_run_inputs(context), **named}


def _run_inputs(context: StageContext) -> dict[str, JSON]:
    session = context.session
    return {
        "weights": session.weights(session.family.spec.denoiser_components),
        "precision": session.precision("train", context.settings.train.precision),
        "family": session.family.spec.identity,
        **initial_key(context),
    }


def run_key(context: StageContext) -> str:
    """Return the key of the training run: everything of the stage's recipe that its weights and snapshots depend on.

    How they are written to files is left out, so another `export.formats` exports again and trains nothing.
    """
    length: dict[str, JSON] = {"steps": context.session.length.steps, **Marks.of(context).key}
    return digest(_training_recipe(context, _versions(context)) | {"length": length})


def _versions(context: StageContext) -> dict[str, str]:
    return {name: published.data_version for name, published in context.upstream.items()}


def _training_recipe(context: StageContext, upstream: Mapping[str, str]) -> dict[str, JSON]:
    """Return everything that decides the weights of a step of the run, and when they are measured; not its length."""
    settings = slice_key(context.session.project, TRAINING_READS)
    # Which step is taken changes none of them, and how long it is and what is kept were counted in several ways.
    for name in ("select", "steps", "epochs"):
        del settings["train"][name]
    del settings["sample"]
    return {"run": _RUN, "settings": settings, "inputs": _run_inputs(context), "upstream": dict(upstream)}


def continuation(context: StageContext, upstream: Mapping[str, str], workdir: Path) -> Continuation:
    """Return what decides whether the run in `workdir` can go on from a run of another length.

    Args:
        context: the stage's; nothing upstream is read from it.
        upstream: stage -> data version of its result.
        workdir: folder of the run; it need not exist.
    """
    session = context.session
    recipe: dict[str, Any] = _training_recipe(context, upstream)
    # When losses are measured changes no weights.
    del recipe["settings"]["train"]["evaluate_every"]
    return Continuation(
        root=session.store.root,
        workdir=workdir,
        record=RunRecord(digest(recipe), session.length.steps),
        schedule=context.settings.schedule,
        selection=selection_of(context, workdir),
        marks=Marks.of(context),
        measures=any(sample.split == "held_out" for sample in session.manifest.samples),
    )


def forecast(context: StageContext, upstream: Mapping[str, str]) -> str:
    """Say what a run of this length does with a finished one of another length; empty if there is none."""
    length: dict[str, JSON] = {"steps": context.session.length.steps, **Marks.of(context).key}
    workdir = context.session.store.root / "runs" / digest(_training_recipe(context, upstream) | {"length": length})
    return continuation(context, upstream, workdir).forecast()


def _run(context: StageContext) -> Outcome:
    from trainer_core.hardware.placement import peak_memory_mib, torch_work

    workdir = context.session.store.root / "runs" / run_key(context)
    workdir.mkdir(parents=True, exist_ok=True)
    # Recipes that differ in how the file is written share a run: one trains, the others find it done.
    with (
        torch_work(context.session.profile, context.settings.hardware.threads),
        context.session.store.lock(f"run-{workdir.name}"),
    ):
        going_on = continuation(context, _versions(context), workdir)
        going_on.adopt()
        going_on.record.write(context.session.store.root, workdir)
        if context.settings.hardware.num_processes > 1:
            from trainer_core.stages.training.launch import train_in_processes

            # Damaged entries are found, and healed, before several processes meet them.
            cached_samples(context)
            outcome = train_in_processes(context, workdir)
        else:
            outcome = train_here(context, workdir)
    step, adapter = _select(context, workdir, outcome)
    modules = base_modules(context)
    exports = export_all(context, modules, adapter, step)
    metrics = _collect(context, workdir, step, modules)
    held_out = selection_of(context, workdir).losses()
    metadata: dict[str, JSON] = {
        "run": workdir.name,
        "steps": context.session.length.steps,
        "selected_step": step,
        "held_out_losses": {str(at): loss for at, loss in sorted(held_out.items())},
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
    metadata |= collect_saves(context, workdir, Marks.of(context), held_out, modules)
    total = context.session.length.steps
    return Outcome(
        exports.weights_sha256, metadata, items_computed=outcome.steps_run, items_reused=total - outcome.steps_run
    )


def train_here(context: StageContext, workdir: Path) -> TrainOutcome:
    """Train in this process (one of several when a launcher started it)."""
    from trainer_core.train.accelerator import make_accelerator
    from trainer_core.train.loop import run
    from trainer_core.train.observe.trackers import open_trackers
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
    if accelerator.is_main_process and trainer.step < trainer.total_steps:
        ensure_room(context, workdir, _footprint(context, trainer))
    if held_out and accelerator.is_main_process:
        selection.forget_after(trainer.step)
        trainer.evaluation = _evaluation(context, trainer, selection, held_out)

    marks = Marks.of(context)
    if marks.all and accelerator.is_main_process:
        trainer.on_step = Saver(context, workdir, marks, selection, base_modules(context)).on_step
        trainer.snapshots_at = marks.all
    if accelerator.is_main_process and trainer.step < trainer.total_steps:
        trainer.trackers = open_trackers(run_place(context, workdir), settings.logging, trainer.step)
    try:
        return run(trainer)
    finally:
        trainer.trackers.close()


def run_place(context: StageContext, workdir: Path) -> RunFolders:
    """Return where the run and what services are told of it lie."""
    from trainer_core.train.observe.trackers import RunFolders

    session = context.session
    groups = slice_key(session.project, TRAINING_READS)
    told = {f"{group}.{name}": value for group, fields in groups.items() for name, value in fields.items()}
    return RunFolders(workdir, session.outputs, session.project.name, told | {"steps": session.length.steps})


def _footprint(context: StageContext, trainer: Trainer) -> Footprint:
    """Return what a run will take on the disk, with two moments a weight as AdamW has, the most of any optimizer."""
    adapter = sum(parameter.numel() * 4 for parameter in trainer.parameters)
    # One more is being written, and one may be kept for longer runs.
    states = context.settings.train.keep_last + 1 + (0 < trainer.branch_step < trainer.total_steps)
    # The best weights at each checkpoint that may be gone back to, and those of the end.
    return Footprint(adapter, 2 * adapter, states, states + 1 + Marks.of(context).most_kept)


def selection_of(context: StageContext, workdir: Path) -> Selection:
    """Return the held-out losses of a run."""
    train = context.settings.train
    steps = context.session.length.steps
    return Selection(workdir, train.evaluate_every or max(1, steps // 10), steps, Marks.of(context).measured)


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
        trainer.trackers.log({"loss/held_out": loss}, step)

    return Evaluation(selection.due, measure)


def _select(context: StageContext, workdir: Path, outcome: TrainOutcome) -> tuple[int, Mapping[str, Tensor]]:
    """Return the step that becomes the LoRA, and its weights.

    Raises:
        LoraAssetsError: the weights of the best step were damaged since they were measured.
    """
    selection, last = selection_of(context, workdir), context.session.length.steps
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
    from trainer_core.data.epoch.batch_order import Order
    from trainer_core.diffusion.noise_shape import NoiseShape
    from trainer_core.hardware.placement import place, torch_dtype, use_attention
    from trainer_core.train.batches import BatchLoader
    from trainer_core.train.objective import sample_weights
    from trainer_core.train.trainer import TrainerParts

    session, settings = context.session, context.settings
    train = trained_samples(context)
    precision = session.precision("train", settings.train.precision)
    dtype = torch_dtype(precision)
    cache = cached_samples(context)
    if cache.nbytes() <= settings.hardware.resident_cache_mib * 2**20:
        cache = cache.resident(device, dtype)
    denoiser = place(loading.load_denoiser(session.source, dtype), session.profile)
    use_attention(denoiser, session.profile.attention)
    order = Order.of(train, settings.train.batch_size, settings.train.seed)
    live = encoded_live(session.project)
    for finding in session.caption_findings:
        log.warning("%s", finding)
    return TrainerParts(
        project=settings,
        family=session.family,
        schedule=session.family.noise_schedule(session.source, settings.noise),
        denoiser=denoiser,
        precision=precision,
        loader=BatchLoader(
            order,
            cache,
            device,
            dtype,
            NoiseShape.of(settings.noise),
            sample_weights(train, settings.loss.prior_weight),
            text_choice(session, train, settings.caption),
            live_captions(train, settings.caption, order.seed) if live else None,
        ),
        total_steps=session.length.steps,
        live_text=load_live_text(session) if live else None,
        initial=initial_layers(context),
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

    session, train = context.session, trained_samples(context)
    store = session.store
    geometries = seen_geometries(train)
    names = names_needed(train, text_choice(session, train, context.settings.caption), encoded_live(session.project))
    latents = context.upstream["cached_latents"]
    return CachedSamples(
        read_latents(store, keys_of(latents, geometries)),
        read_text(store, keys_of(context.upstream["cached_text_embeddings"], names)),
        geometries,
        read_controls(store, control_keys_of(latents, train)),
        views=view_ids(train),
        masks=read_masks(store, mask_keys_of(latents, train)),
    )


def _collect(context: StageContext, workdir: Path, selected: int, modules: Modules) -> list[dict[str, Any]]:
    """Put the run's curve and its exported snapshots into the result."""
    import shutil

    from trainer_core.export.snapshots import read_snapshot
    from trainer_core.train.observe.metrics import read_metrics
    from trainer_core.train.observe.plots import write_loss_curve

    for step in sorted(Marks.of(context).sampled):
        snapshot = snapshot_path(workdir, step)
        if snapshot.exists() and (adapter := read_snapshot(snapshot)) is not None:
            target = context.staging / SNAPSHOTS / snapshot.name
            target.parent.mkdir(exist_ok=True)
            export_snapshot(context, modules, adapter, target, step)
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
    total=lambda context: context.session.length.steps,
    outputs={
        **published_names(),
        "training.jsonl": "training.jsonl",
        "loss_curve.png": "loss_curve.png",
        PROOF: PROOF,
    },
    owns=is_saved_output,
    forecast=forecast,
)
