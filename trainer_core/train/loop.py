"""The training loop. It knows `Family.predict`, the noise schedule and the spec, and never asks a family's name.

One process and several run the same code: micro-batch (step, accumulation a, rank r) is number (step*A + a)*W + r of
the order, and the LoRA gradients are averaged over processes before the optimizer's step. The model is not wrapped:
LoRA gradients are a few megabytes, so one reduction of all of them costs less than wrapping costs the code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from trainer_core.errors import Interrupted
from trainer_core.hardware.memory_use import PeakMemory, take_peak
from trainer_core.train.optim.ema import published_weights
from trainer_core.train.run_monitor import RunMonitor
from trainer_core.train.signals import StopRequest, stop_on_signals
from trainer_core.train.step import BatchStream, optimizer_step
from trainer_core.train.trainer import Trainer, save_checkpoint


@dataclass(frozen=True)
class TrainOutcome:
    """What a finished run leaves."""

    adapter: Mapping[str, Tensor]
    steps_run: int
    """Steps that this process did itself, without those it resumed from."""
    steps_per_second: float
    peak: PeakMemory = PeakMemory()
    """Of the main process, while it trained."""


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
            _evaluate(trainer, monitor, stop)
        # Only one process measures, and all must ask: each is answered by all others.
        if _stop_agreed(trainer, stop):
            save_checkpoint(trainer)
            _leave(trainer, stop)
        stream = BatchStream(trainer)
        stream.restart()
        while trainer.step < trainer.total_steps:
            if trainer.profiler is not None:
                trainer.profiler.before_step(trainer.step)
            optimizer_step(trainer, stream, monitor, lambda: _leave_within_a_step(trainer, monitor, stop))
            trainer.step += 1
            if trainer.profiler is not None:
                trainer.profiler.after_step(trainer.step)
            monitor.after_step()
            if should_stop is not None and should_stop():
                break
            _evaluate(trainer, monitor, stop)
            stopping = _stop_agreed(trainer, stop)
            _save_when_due(trainer, monitor, stopping)
            if stopping:
                _leave(trainer, stop)
    seconds = time.perf_counter() - began
    done = trainer.step - first
    with published_weights(trainer.averages):
        adapter = trainer.adapter_state()
    peak = monitor.peak.with_(take_peak())
    return TrainOutcome(adapter, done, done / max(seconds, 1e-9) if done else 0.0, peak)


def _evaluate(trainer: Trainer, monitor: RunMonitor, stop: StopRequest) -> None:
    if trainer.evaluation is not None and trainer.evaluation.due(trainer.step):
        monitor.check_finite()
        began = time.perf_counter()
        with published_weights(trainer.averages), trainer.phases.phase("evaluate"):
            trainer.evaluation.measure(trainer.step, lambda: stop.received)
        monitor.clock.started += time.perf_counter() - began


def _save_when_due(trainer: Trainer, monitor: RunMonitor, stopping: bool) -> None:
    settings = trainer.project.train
    if trainer.step in trainer.snapshots_at and trainer.on_step and trainer.accelerator.is_main_process:
        monitor.check_finite()
        began = time.perf_counter()
        with published_weights(trainer.averages), trainer.phases.phase("save"):
            trainer.on_step(trainer.step, trainer.adapter_state())
        monitor.clock.started += time.perf_counter() - began
    due = settings.checkpoint_every and trainer.step % settings.checkpoint_every == 0
    branch = bool(settings.checkpoint_every) and trainer.step == trainer.branch_step
    if due or branch or stopping or trainer.step == trainer.total_steps:
        monitor.check_finite()
        with trainer.phases.phase("save"):
            save_checkpoint(trainer)


def _stop_agreed(trainer: Trainer, stop: StopRequest) -> bool:
    """Say whether any process was asked to stop; all processes get the same answer, so that all take the same way."""
    if trainer.accelerator.num_processes == 1:
        return stop.received
    # One number a step: the price of several processes leaving together within a step.
    asked = torch.tensor(float(stop.received), device=trainer.accelerator.device)
    total: Any = trainer.accelerator.reduce(asked, reduction="sum")
    return bool(total.item())


def _leave_within_a_step(trainer: Trainer, monitor: RunMonitor, stop: StopRequest) -> None:
    """Stop without finishing a long accumulation: its gradients are dropped, the weights are the last step's."""
    if stop.received and trainer.accelerator.num_processes == 1:
        monitor.check_finite()
        save_checkpoint(trainer)
        _leave(trainer, stop)


def _leave(trainer: Trainer, stop: StopRequest) -> NoReturn:
    message = f"stopped by {stop.signal_name or 'another process'} after step {trainer.step}; state saved. "
    raise Interrupted(message + "The same command goes on from there.")
