"""The state of a run: how it is built, saved and resumed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from trainer_core.adapters.adapter import ADAPTERS, module_of
from trainer_core.adapters.fast_lora import use_fast_lora
from trainer_core.adapters.layers import Layer
from trainer_core.adapters.lora import leave_inputs_uncast
from trainer_core.config.optimizers import draws_numbers
from trainer_core.data.epoch.batch_order import BatchOrder
from trainer_core.diffusion.schedule import NoiseSchedule
from trainer_core.families.family import Family
from trainer_core.families.spec import PrecisionName
from trainer_core.hardware.kernel_scope import compile_blocks
from trainer_core.hardware.placement import has_own_memory
from trainer_core.hardware.step_plan import StepPlan
from trainer_core.train.batches import BatchLoader
from trainer_core.train.live_text import LiveText, attach_text_encoders
from trainer_core.train.memory.fitted import FittedStep, compilable_blocks, limits_of, planned, swappable_blocks
from trainer_core.train.memory.ladder import Ladder, lowered, read_rungs
from trainer_core.train.observe.phases import PhaseClock
from trainer_core.train.observe.profiling import StepProfiler
from trainer_core.train.observe.trackers import Trackers
from trainer_core.train.optim.build import TrainedPart, build_optimizer
from trainer_core.train.optim.ema import Averages, make_averages
from trainer_core.train.optim.schedules import lr_multiplier, steps_of_any_length
from trainer_core.train.optim.state import optimizer_state, restore_optimizer
from trainer_core.train.run_state.adapter_state import load_parts_state, parts_state
from trainer_core.train.run_state.checkpoint import TrainState, load_latest, prune, save_state
from trainer_core.train.trainer_settings import TrainerSettings
from trainer_core.types import Report

log = logging.getLogger(__name__)

STAGE = "lora_checkpoint"
"""The stage that progress events of a run belong to."""


@dataclass(frozen=True)
class TrainerParts:
    """The parts of a run before the adapter is attached."""

    project: TrainerSettings
    family: Family
    schedule: NoiseSchedule
    denoiser: Any
    """The frozen base in its precision, on its device; on the CPU where blocks of it are swapped."""
    precision: PrecisionName
    loader: BatchLoader
    total_steps: int
    """Optimizer steps of the whole run."""
    live_text: LiveText | None = None
    """The text encoders, where captions are encoded batch by batch."""
    initial: Mapping[str, Layer] | None = None
    """Layers to start from, by module of the denoiser; None to start from new ones."""
    fast_lora: bool = True
    """Whether plain LoRAs are computed as one operation (`adapters.fast_lora`)."""
    compiled: bool = False
    """Whether blocks are compiled."""
    plan: StepPlan | None = None
    """How a step is made to fit; what the settings ask for unless given."""


@dataclass(frozen=True)
class Evaluation:
    """A measurement that is taken after some steps; step 0 is the base."""

    due: Callable[[int], bool]
    measure: Callable[[int, Callable[[], bool]], None]
    """Called with the step, and with what says whether to break off; what was broken off counts as not measured."""
    measured: Collection[int] = ()
    """Steps that were measured before the run went on."""


@dataclass
class Trainer:
    """A run: the parts that were built once, and the step that it is at."""

    project: TrainerSettings
    family: Family
    schedule: NoiseSchedule
    denoiser: nn.Module
    parts: tuple[TrainedPart, ...]
    """The models that carry an adapter; the first is the denoiser."""
    fitted: FittedStep
    """The same models as the plan for memory wants them."""
    ladder: Ladder
    """What is done when memory runs out."""
    optimizer: Any
    """The optimizer as accelerate wrapped it."""
    accelerator: Accelerator
    loader: BatchLoader
    workdir: Path
    report: Report
    total_steps: int
    """Optimizer steps of the whole run."""
    on_step: Callable[[int, Mapping[str, Tensor]], None] | None = None
    """Called on the main process after the steps in `snapshots_at` with the step and the adapter's state."""
    snapshots_at: frozenset[int] = frozenset()
    trackers: Trackers = field(default_factory=Trackers)
    """Services that draw curves; none on other processes than the main one."""
    live_text: LiveText | None = None
    """The text encoders, where captions are encoded batch by batch."""
    evaluation: Evaluation | None = None
    """Measurement that the main process takes during the run."""
    averages: Averages | None = None
    """Averaged weights, which are measured, saved and exported in place of the trained ones."""
    multiplier: Callable[[int], float] | None = None
    """Optimizer step, counted from 0 -> share of the peak rates; `schedule` unless given."""
    optimizer_draws: bool = False
    """Whether the optimizer draws random numbers in a step, which is then seeded by its number."""
    phases: PhaseClock = field(default_factory=lambda: PhaseClock(torch.device("cpu")))
    """Times the phases of a step."""
    profiler: StepProfiler | None = None
    """Records some steps, where that was asked for."""
    step: int = 0
    last_grad_norm: Tensor | None = field(default=None, repr=False)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Everything that is trained."""
        return [parameter for part in self.parts for parameter in part.parameters.values()]

    def learning_rates(self) -> dict[str, float]:
        """Return `lr/PART` -> its learning rate now, and `d*lr/PART` for optimizers that find their own."""
        groups, rates = self.optimizer.param_groups, dict[str, float]()
        for position, group in enumerate(groups):
            own = self.parts[position].name if len(groups) == len(self.parts) else f"group{position}"
            name = str(group.get("name") or own)
            rates[f"lr/{name}"] = float(group["lr"])
            if "d" in group:
                rates[f"d*lr/{name}"] = float(group["d"]) * float(group["lr"])
        return rates

    @property
    def order(self) -> BatchOrder:
        """The order of micro-batches."""
        return self.loader.order

    def share_of_peak(self) -> float:
        """Return what the peak rates are multiplied by in this step."""
        if self.multiplier is not None:
            return self.multiplier(self.step)
        return lr_multiplier(self.step, self.project.schedule, self.total_steps)

    def adapter_state(self) -> dict[str, Tensor]:
        """Return a copy of the adapter's weights on the CPU, as they are now."""
        return parts_state(self.parts, ADAPTERS[self.project.adapter.type])

    @property
    def branch_step(self) -> int:
        """Step whose checkpoint a longer run can go on from, before the schedule begins to depend on the length."""
        return steps_of_any_length(self.project.schedule, self.total_steps)

    @property
    def checkpoints(self) -> Path:
        """The folder of resumable checkpoints."""
        return self.workdir / "checkpoints"


def prepare(parts: TrainerParts, workdir: Path, report: Report, accelerator: Accelerator) -> Trainer:
    """Attach the adapter, build the optimizer and go back to the last good checkpoint."""
    project = parts.project
    parameters = ADAPTERS[project.adapter.type].attach(
        parts.denoiser,
        project.adapter,
        project.adapter_options,
        parts.family.spec.targets,
        project.train.seed,
        parts.initial,
    )
    leave_inputs_uncast(parts.denoiser)
    if parts.fast_lora:
        use_fast_lora(parts.denoiser)
    trained: tuple[TrainedPart, ...] = (
        TrainedPart(parts.family.spec.denoiser, parts.denoiser, parameters, project.optimizer.lr),
    )
    log.info(
        "%s of rank %d on %d modules (adapter.targets = %s): %s trained parameters",
        project.adapter.type,
        project.adapter.rank,
        len({module_of(name) for name in parameters}),
        project.adapter.targets,
        f"{sum(parameter.numel() for parameter in parameters.values()):,}",
    )
    parts.denoiser.train()
    if parts.live_text is not None:
        trained += attach_text_encoders(
            parts.live_text,
            project.adapter,
            project.optimizer,
            project.train.seed,
        )
    ladder, fitted = _fit(parts, trained, workdir, accelerator)
    optimizer = build_optimizer(trained, project.optimizer, scaled=parts.precision == "fp16")
    trainer = Trainer(
        project=project,
        family=parts.family,
        schedule=parts.schedule,
        denoiser=parts.denoiser,
        parts=trained,
        fitted=fitted,
        ladder=ladder,
        optimizer=accelerator.prepare_optimizer(optimizer, device_placement=False),
        accelerator=accelerator,
        loader=parts.loader,
        workdir=workdir,
        report=report,
        averages=make_averages(trained, optimizer, project.train.ema_decay),
        live_text=parts.live_text,
        total_steps=parts.total_steps,
        optimizer_draws=draws_numbers(project.optimizer.name),
        phases=PhaseClock(accelerator.device),
    )
    with accelerator.main_process_first():
        # A damaged checkpoint is moved aside by the first process, not by all at once.
        _resume(trainer)
    return trainer


def _fit(
    parts: TrainerParts, trained: Sequence[TrainedPart], workdir: Path, accelerator: Accelerator
) -> tuple[Ladder, FittedStep]:
    """Have the models as the plan wants them, and what earlier rungs of this run found necessary."""
    blocks = swappable_blocks(parts.denoiser, parts.family.spec)
    limits = limits_of(parts.project, blocks, accelerator.device)
    metrics = workdir / "metrics.jsonl"
    rungs = read_rungs(metrics)
    plan = lowered(parts.plan or planned(parts.project), rungs, limits)
    if not has_own_memory(accelerator.device):
        plan = replace(plan, blocks_to_swap=0, offload_activations=False)
    lowers = parts.project.memory.on_oom == "lower"
    ladder = Ladder(plan, limits, lowers, metrics, accelerator.num_processes == 1, rungs)
    fitted = FittedStep(parts.denoiser, blocks, [part.module for part in trained[1:]], accelerator.device)
    fitted.use(plan)
    if parts.compiled:
        compile_blocks(compilable_blocks(parts.denoiser, parts.family.spec))
    return ladder, fitted


def save_checkpoint(trainer: Trainer) -> None:
    """Save what the next step needs; only the main process writes."""
    if trainer.accelerator.is_main_process:
        scaler = trainer.accelerator.scaler
        state = TrainState(
            trainer.step,
            trainer.adapter_state(),
            optimizer_state(trainer.optimizer),
            None if scaler is None else scaler.state_dict(),
            None if trainer.averages is None else trainer.averages.state(),
        )
        save_state(trainer.checkpoints, state)
        prune(trainer.checkpoints, trainer.project.train.keep_last, trainer.branch_step)
    trainer.accelerator.wait_for_everyone()


def micro_batch_number(trainer: Trainer, step: int, accumulation: int) -> int:
    """Return which micro-batch of the order this process takes at (step, accumulation)."""
    accelerator = trainer.accelerator
    within = step * trainer.project.train.gradient_accumulation_steps + accumulation
    return within * accelerator.num_processes + accelerator.process_index


def _resume(trainer: Trainer) -> None:
    trainer.checkpoints.mkdir(parents=True, exist_ok=True)
    if (state := load_latest(trainer.checkpoints)) is None:
        return
    load_parts_state(trainer.parts, ADAPTERS[trainer.project.adapter.type], state.adapter)
    restore_optimizer(trainer.optimizer, state.optimizer)
    if trainer.averages is not None:
        trainer.averages.restore(state.ema)
    if state.scaler is not None and trainer.accelerator.scaler is not None:
        trainer.accelerator.scaler.load_state_dict(dict(state.scaler))
    trainer.step = state.step
    log.info("resuming from step %d of %d", state.step, trainer.total_steps)
