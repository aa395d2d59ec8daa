"""A training run: its parts, its measurements, the step that becomes the LoRA. Imports torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from trainer_core.config.reads import settings_key
from trainer_core.data.epoch.batch_order import BatchOrder
from trainer_core.diffusion.noise_shape import NoiseShape
from trainer_core.errors import LoraAssetsError
from trainer_core.families.shared import loading
from trainer_core.hardware.placement import move_to_device, torch_dtype, use_attention
from trainer_core.sampling.evaluate import Evaluator, HeldOut
from trainer_core.stages.caching.caption_entries import live_captions, text_choice
from trainer_core.stages.lora_settings import LoraContext, RunSettings, run_length
from trainer_core.stages.publishing.lora_files import base_modules
from trainer_core.stages.training.best_checkpoint import Selection
from trainer_core.stages.training.continuation import losses_choose, selection_of
from trainer_core.stages.training.disk_budget import Footprint, enforce_disk_budget
from trainer_core.stages.training.init_from import initial_layers
from trainer_core.stages.training.intermediate_saves import Saver
from trainer_core.stages.training.live_text import load_live_text, read_anew
from trainer_core.stages.training.save_schedule import SNAPSHOTS, SaveSchedule
from trainer_core.stages.training.training_data import (
    cached_samples,
    held_out_samples,
    trained_samples,
    trains_live,
)
from trainer_core.train.accelerator import make_accelerator
from trainer_core.train.batches import BatchLoader
from trainer_core.train.live_text import set_training
from trainer_core.train.loop import TrainOutcome, run
from trainer_core.train.objective import sample_weights
from trainer_core.train.observe.metrics import earlier_points, held_out_curve, read_metrics
from trainer_core.train.observe.trackers import RunFolders, open_trackers
from trainer_core.train.trainer import Evaluation, Trainer, TrainerParts, prepare

log = logging.getLogger(__name__)


def train_here(context: LoraContext, workdir: Path) -> TrainOutcome:
    """Train in this process (one of several when a launcher started it)."""
    workspace, settings = context.workspace, context.settings
    precision = workspace.precision("train", settings.train.precision)
    accelerator = make_accelerator(workspace.profile, precision, settings.train.gradient_accumulation_steps)
    selection, held_out = selection_of(context, workdir), held_out_samples(workspace, context.upstream)
    if held_out and accelerator.is_main_process:
        if losses_choose(context):
            selection.measure_from_the_beginning()
        selection.refuse_checkpoints_without_losses(workdir / "checkpoints")
    accelerator.wait_for_everyone()
    trainer = prepare(training_parts(context, accelerator.device), workdir, workspace.report, accelerator)
    (workdir / SNAPSHOTS).mkdir(exist_ok=True)
    if accelerator.is_main_process:
        _observe(context, trainer, selection, held_out)
    try:
        return run(trainer)
    finally:
        trainer.trackers.close()


def _observe(context: LoraContext, trainer: Trainer, selection: Selection, held_out: list[HeldOut]) -> None:
    """Add what only the main process does: the disk budget, measurements, files on the way, trackers."""
    if unfinished := trainer.step < trainer.total_steps:
        enforce_disk_budget(context, trainer.workdir, _footprint(context, trainer))
    if held_out:
        selection.forget_after(trainer.step)
        trainer.evaluation = _evaluation(context, trainer, selection, held_out)
    schedule = SaveSchedule.of(context)
    if schedule.all:
        trainer.on_step = Saver(context, trainer.workdir, schedule, selection, base_modules(context)).on_step
        trainer.snapshots_at = schedule.all
    if unfinished:
        folders = run_folders(context, trainer.workdir)
        lines = read_metrics(trainer.workdir / "metrics.jsonl")
        earlier = earlier_points(lines, selection.losses(), trainer.step)
        trainer.trackers = open_trackers(folders, context.settings.logging, trainer.step, earlier)


def run_folders(context: LoraContext, workdir: Path) -> RunFolders:
    """Return the folders of a run, and the settings that services show of it."""
    workspace = context.workspace
    groups = settings_key(context.settings, RunSettings)
    settings = {f"{group}.{name}": value for group, fields in groups.items() for name, value in fields.items()}
    return RunFolders(workdir, workspace.outputs, workspace.name, settings | {"steps": run_length(context).steps})


def choose_step(context: LoraContext, workdir: Path, outcome: TrainOutcome) -> tuple[int, Mapping[str, Tensor]]:
    """Return the step that becomes the LoRA, and its weights.

    Raises:
        LoraAssetsError: the weights of the best step were damaged since they were measured.
    """
    selection, last = selection_of(context, workdir), run_length(context).steps
    best = selection.best()
    if context.settings.train.select == "last" or best is None or best == last:
        return last, outcome.adapter
    weights = selection.best_weights()
    if weights is None:
        message = f"{workdir}: the weights of step {best}, the best, were damaged after they were measured. "
        raise LoraAssetsError(message + "Run again: training goes back to before it.")
    return best, weights


def training_parts(context: LoraContext, device: torch.device) -> TrainerParts:
    """Load the base and the caches: what a run is made of."""
    workspace, settings = context.workspace, context.settings
    precision = workspace.precision("train", settings.train.precision)
    dtype = torch_dtype(precision)
    # Damaged entries are found before the base is loaded.
    loader = _loader(context, device, dtype)
    denoiser = move_to_device(loading.load_denoiser(workspace.source, dtype), workspace.profile)
    use_attention(denoiser, workspace.profile.attention)
    return TrainerParts(
        project=settings,
        family=workspace.family,
        schedule=workspace.family.noise_schedule(workspace.source, settings.noise),
        denoiser=denoiser,
        precision=precision,
        loader=loader,
        total_steps=run_length(context).steps,
        live_text=load_live_text(workspace, settings.text) if trains_live(context) else None,
        initial=initial_layers(context),
    )


def _loader(context: LoraContext, device: torch.device, dtype: torch.dtype) -> BatchLoader:
    workspace, settings = context.workspace, context.settings
    train, live, cache = trained_samples(context), trains_live(context), cached_samples(context)
    if cache.nbytes() <= settings.hardware.resident_cache_mib * 2**20:
        cache = cache.resident(device, dtype)
    order = BatchOrder.of(train, settings.train.batch_size, settings.train.seed)
    return BatchLoader(
        order,
        cache,
        device,
        dtype,
        NoiseShape.of(settings.noise),
        sample_weights(train, settings.loss.prior_weight),
        text_choice(workspace, train, settings.caption, live),
        live_captions(train, settings.caption, order.seed) if live else None,
    )


def _footprint(context: LoraContext, trainer: Trainer) -> Footprint:
    """Return what a run takes on the disk at most: two moments a weight as AdamW has, the most of any optimizer."""
    adapter = sum(parameter.numel() * 4 for parameter in trainer.parameters)
    # One more is being written, and one may be kept for longer runs.
    states = context.settings.train.keep_last + 1 + (0 < trainer.branch_step < trainer.total_steps)
    # The best weights at each checkpoint that may be gone back to, and those of the end.
    return Footprint(adapter, 2 * adapter, states, states + 1 + SaveSchedule.of(context).most_kept)


def _evaluation(context: LoraContext, trainer: Trainer, selection: Selection, held_out: list[HeldOut]) -> Evaluation:
    """Return the measurement of the held-out loss, which keeps the best weights."""
    device, dtype = trainer.accelerator.device, trainer.loader.dtype
    guidance = context.settings.noise.guidance
    evaluator = Evaluator(trainer.family, trainer.schedule, device, dtype, guidance)

    def measure(step: int) -> None:
        set_training(trainer.parts, False)
        live = trainer.live_text
        # What was cached is what the base's encoders say.
        samples = held_out if live is None else read_anew(live, held_out, context.workspace.manifest.samples)
        loss = fmean(evaluator.losses(trainer.denoiser, samples, lambda: None).values())
        set_training(trainer.parts, True)
        selection.add(step, loss, trainer.adapter_state())
        trainer.trackers.log(held_out_curve(loss), step)

    return Evaluation(selection.due, measure, selection.losses())
