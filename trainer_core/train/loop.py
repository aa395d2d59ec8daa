"""The training loop. It knows `Family.predict`, the noise schedule and the spec, and never asks a family's name.

One process and several run the same code: micro-batch (step, accumulation a, rank r) is number (step*A + a)*W + r of
the order, and the LoRA gradients are averaged over processes before the optimizer's step. The model is not wrapped:
LoRA gradients are a few megabytes, so one reduction of all of them costs less than wrapping costs the code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from trainer_core.adapters.adapter import draws
from trainer_core.diffusion.noise import derive_seed
from trainer_core.errors import Interrupted
from trainer_core.train.objective import training_loss
from trainer_core.train.optim.ema import published_weights
from trainer_core.train.run_monitor import RunMonitor
from trainer_core.train.signals import StopRequest, stop_on_signals
from trainer_core.train.trainer import Trainer, micro_batch_number, save_checkpoint
from trainer_core.types import Batch


@dataclass(frozen=True)
class TrainOutcome:
    """What a finished run leaves."""

    adapter: Mapping[str, Tensor]
    steps_run: int
    """Steps that this process did itself, without those it resumed from."""
    steps_per_second: float


def run(trainer: Trainer, should_stop: Callable[[], bool] | None = None) -> TrainOutcome:
    """Train to the end of the run, or until a signal asks to stop.

    Args:
        trainer: at the step that it begins or resumes from.
        should_stop: asked after every step; True ends the run there, and nothing is saved.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the state was saved.
        NonFiniteError: a loss was NaN or infinite; the last good checkpoint stays.
    """
    first = trainer.step
    monitor = RunMonitor(trainer)
    began = time.perf_counter()
    with stop_on_signals() as stop:
        if trainer.evaluation is not None and trainer.step not in trainer.evaluation.measured:
            _evaluate(trainer, monitor)
        batches = trainer.loader.stream(_micro_batches(trainer))
        while trainer.step < trainer.total_steps:
            _optimizer_step(trainer, batches, monitor, stop)
            trainer.step += 1
            monitor.after_step()
            if should_stop is not None and should_stop():
                break
            _evaluate(trainer, monitor)
            stopping = _stop_agreed(trainer, stop)
            _save_when_due(trainer, monitor, stopping)
            if stopping:
                _leave(trainer, stop)
    seconds = time.perf_counter() - began
    done = trainer.step - first
    with published_weights(trainer.averages):
        adapter = trainer.adapter_state()
    return TrainOutcome(adapter, done, done / max(seconds, 1e-9) if done else 0.0)


def _optimizer_step(trainer: Trainer, batches: Iterator[Batch], monitor: RunMonitor, stop: StopRequest) -> None:
    """Accumulate gradients over the micro-batches of one step and update the weights."""
    settings, accelerator = trainer.project.train, trainer.accelerator
    multiplier = trainer.share_of_peak()
    for group in trainer.optimizer.param_groups:
        group["lr"] = group["peak_lr"] * multiplier
    for accumulation in range(settings.gradient_accumulation_steps):
        if accumulation and stop.received and accelerator.num_processes == 1:
            # Stop without finishing a long accumulation: its gradients are dropped, the weights are the last step's.
            monitor.check_finite()
            save_checkpoint(trainer)
            _leave(trainer, stop)
        number = micro_batch_number(trainer, trainer.step, accumulation)
        batch = monitor.next_batch(batches)
        with accelerator.accumulate(trainer.denoiser):
            # Dropout draws from torch's own generators: seeding them from the number keeps resuming exact.
            if draws(trainer.project.adapter):
                torch.manual_seed(settings.seed + number)
            loss = training_loss(trainer, batch)
            accelerator.backward(loss)
            monitor.record(number, loss, len(batch.sample_ids))
            if accelerator.sync_gradients:
                _update(trainer)


def _update(trainer: Trainer) -> None:
    accelerator, limit = trainer.accelerator, trainer.project.optimizer.max_grad_norm
    if accelerator.num_processes > 1:
        _average_gradients(trainer)
    # An infinite limit clips nothing and still gives the norm.
    trainer.last_grad_norm = accelerator.clip_grad_norm_(trainer.parameters, limit or float("inf"))
    if trainer.optimizer_draws:
        # Resuming is exact only if what it draws is a function of the step.
        torch.manual_seed(derive_seed("optimizer", (trainer.project.train.seed, trainer.step)))
    trainer.optimizer.step()
    if trainer.averages is not None and not trainer.optimizer.step_was_skipped:
        trainer.averages.update()
    trainer.optimizer.zero_grad()


def _average_gradients(trainer: Trainer) -> None:
    gradients = [parameter.grad for parameter in trainer.parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    mean: Any = trainer.accelerator.reduce(flat, reduction="mean")
    for gradient, part in zip(gradients, mean.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _micro_batches(trainer: Trainer) -> range:
    first = micro_batch_number(trainer, trainer.step, 0)
    end = micro_batch_number(trainer, trainer.total_steps, 0)
    return range(first, end, trainer.accelerator.num_processes)


def _evaluate(trainer: Trainer, monitor: RunMonitor) -> None:
    if trainer.evaluation is not None and trainer.evaluation.due(trainer.step):
        monitor.check_finite()
        began = time.perf_counter()
        with published_weights(trainer.averages):
            trainer.evaluation.measure(trainer.step)
        monitor.clock.started += time.perf_counter() - began


def _save_when_due(trainer: Trainer, monitor: RunMonitor, stopping: bool) -> None:
    settings = trainer.project.train
    if trainer.step in trainer.snapshots_at and trainer.on_step and trainer.accelerator.is_main_process:
        monitor.check_finite()
        began = time.perf_counter()
        with published_weights(trainer.averages):
            trainer.on_step(trainer.step, trainer.adapter_state())
        monitor.clock.started += time.perf_counter() - began
    due = settings.checkpoint_every and trainer.step % settings.checkpoint_every == 0
    branch = bool(settings.checkpoint_every) and trainer.step == trainer.branch_step
    if due or branch or stopping or trainer.step == trainer.total_steps:
        monitor.check_finite()
        save_checkpoint(trainer)


def _stop_agreed(trainer: Trainer, stop: StopRequest) -> bool:
    """Say whether any process was asked to stop; all processes get the same answer, so that all take the same way."""
    if trainer.accelerator.num_processes == 1:
        return stop.received
    # One number a step: the price of several processes leaving together within a step.
    asked = torch.tensor(float(stop.received), device=trainer.accelerator.device)
    total: Any = trainer.accelerator.reduce(asked, reduction="sum")
    return bool(total.item())


def _leave(trainer: Trainer, stop: StopRequest) -> NoReturn:
    message = f"stopped by {stop.signal_name or 'another process'} after step {trainer.step}; state saved. "
    raise Interrupted(message + "The same command goes on from there.")
