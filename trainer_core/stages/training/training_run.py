"""A training run: its parts, its measurements, the step that becomes the LoRA. Imports torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from trainer_core.adapters.adapter import ADAPTERS
from trainer_core.config.reads import settings_key
from trainer_core.data.epoch.batch_order import BatchOrder
from trainer_core.diffusion.noise_shape import NoiseShape
from trainer_core.errors import LoraAssetsError
from trainer_core.hardware.kernels import chosen_attention, compiles
from trainer_core.hardware.placement import torch_dtype, use_attention
from trainer_core.hardware.step_plan import StepPlan
from trainer_core.sampling.evaluate import EvaluationStopped, Evaluator, HeldOut, Losses, all_levels, mean_loss
from trainer_core.stages.caching.base_losses import base_losses
from trainer_core.stages.caching.caption_entries import live_captions, text_choice
from trainer_core.stages.lora_settings import LoraContext, RunSettings, evaluation_plan, run_length
from trainer_core.stages.project.memory_plan import plan_of_workspace
from trainer_core.stages.project.quantised_base import load_denoiser, storage_of
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
from trainer_core.train.memory.fitted import planned
from trainer_core.train.objective import sample_weights
from trainer_core.train.observe.metrics import earlier_points, held_out_curve, read_metrics
from trainer_core.train.observe.profiling import StepProfiler
from trainer_core.train.observe.trackers import RunFolders, open_trackers
from trainer_core.train.trainer import Evaluation, Trainer, TrainerParts, prepare

log = logging.getLogger(__name__)


def train_here(context: LoraContext, workdir: Path) -> TrainOutcome:
    """Train in this process (one of several when a launcher started it)."""
    workspace, settings = context.workspace, context.settings
    precision = workspace.precision("train", settings.train.precision)
    accelerator = make_accelerator(workspace.profile, precision, settings.train.gradient_accumulation_steps)
    plan = evaluation_plan(context)
    selection, held_out = selection_of(context, workdir), held_out_samples(workspace, context.upstream, plan.levels)
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
        if trainer.profiler is not None:
            trainer.profiler.close(trainer.step)


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
        trainer.profiler = _profiler(context)
        folders = run_folders(context, trainer.workdir)
        lines = read_metrics(trainer.workdir / "metrics.jsonl")
        earlier = earlier_points(lines, selection.losses(), trainer.step)
        trainer.trackers = open_trackers(folders, context.settings.logging, trainer.step, earlier)


def _profiler(context: LoraContext) -> StepProfiler | None:
    asked = context.settings.train.profile
    if not asked:
        return None
    return StepProfiler(context.workspace.outputs / "profile", asked.get("from", 1), asked.get("steps", 1))


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
    plan, hardware = _step_plan(context), settings.hardware
    swaps = plan.blocks_to_swap > 0 and workspace.profile.has_own_memory
    denoiser = load_denoiser(workspace, dtype, storage_of(workspace, settings.memory), stays_on_cpu=swaps)
    use_attention(denoiser, chosen_attention(workspace.profile, hardware.attention))
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
        fast_lora=hardware.lora == "auto",
        compiled=compiles(workspace.profile, hardware.compile, swaps),
        plan=plan,
    )


def _step_plan(context: LoraContext) -> StepPlan:
    """Return how a step is made to fit: what the settings say, and what the memory plan chooses where they say `auto`.

    Where the base cannot be measured, or is so small that anything fits, only the settings count.
    """
    workspace, settings = context.workspace, context.settings
    asked = planned(settings)
    if settings.train.gradient_checkpointing != "auto" and not workspace.profile.has_own_memory:
        return asked
    try:
        plan = plan_of_workspace(workspace)
    except LoraAssetsError as error:
        log.warning("memory is not planned: %s", error)
        return asked
    return asked if plan is None else asked.joined(plan.choices.step(settings.train.batch_size))


def _loader(context: LoraContext, device: torch.device, dtype: torch.dtype) -> BatchLoader:
    workspace, settings = context.workspace, context.settings
    train, live, cache = trained_samples(context), trains_live(context), cached_samples(context)
    if cache.resident_bytes(dtype) <= settings.hardware.resident_cache_mib * 2**20:
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
    levels = evaluation_plan(context).levels
    evaluator = _evaluator(context, trainer)
    begins_as_base = context.settings.adapter.init_from is None

    def measure(step: int, should_stop: Callable[[], bool]) -> None:
        asked = replace(evaluator, should_stop=should_stop)
        set_training(trainer.parts, False)
        try:
            if step == 0 and begins_as_base:
                losses = _of_base(context, trainer, asked, held_out)
            else:
                losses = asked.losses(trainer.denoiser, _as_read_now(context, trainer, held_out), levels, lambda: None)
        except EvaluationStopped:
            log.info("the measurement after step %d was broken off: the run measures it when it goes on", step)
            return
        finally:
            set_training(trainer.parts, True)
        loss = mean_loss({name: {level: losses[name][level] for level in at} for name, at in levels.items()})
        selection.add(step, loss, trainer.adapter_state())
        trainer.trackers.log(held_out_curve(loss), step)

    return Evaluation(selection.due, measure, selection.losses())


def _evaluator(context: LoraContext, trainer: Trainer) -> Evaluator:
    # Without gradients, a batch as large as that of a step fits wherever the step does.
    together = context.settings.train.batch_size
    guidance = context.settings.noise.guidance
    device, dtype = trainer.accelerator.device, trainer.loader.dtype
    return Evaluator(trainer.family, trainer.schedule, device, dtype, guidance, together)


def _as_read_now(context: LoraContext, trainer: Trainer, held_out: list[HeldOut]) -> list[HeldOut]:
    """Return the samples with their captions as trained text encoders read them; what was cached, where none are."""
    live = trainer.live_text
    return held_out if live is None else read_anew(live, held_out, context.workspace.manifest.samples)


def _of_base(context: LoraContext, trainer: Trainer, evaluator: Evaluator, held_out: list[HeldOut]) -> Losses:
    """Return the base's losses at all levels: remembered ones, and where there are none measured ones."""
    workspace, settings = context.workspace, context.settings
    precision = workspace.precision("train", settings.train.precision)
    remembered = base_losses(
        workspace, settings.noise, precision, context.upstream, storage_of(workspace, settings.memory)
    )
    with ADAPTERS[settings.adapter.type].disabled(trainer.denoiser):
        return remembered.complete(
            held_out, lambda missing: evaluator.losses(trainer.denoiser, missing, all_levels(missing), lambda: None)
        )
