"""Monitors a run: losses recorded on the device, finiteness, metrics every `logging.every` steps."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from trainer_core.clock import iso_time
from trainer_core.errors import NonFiniteError
from trainer_core.hardware.memory_use import PeakMemory, take_peak
from trainer_core.hardware.nvml import read_sensors
from trainer_core.hardware.placement import resident_memory_mib
from trainer_core.train.observe.anomalies import AnomalyWatch
from trainer_core.train.observe.losses import LossRecorder, Stopwatch, first_bad
from trainer_core.train.observe.metrics import MetricsFile, StepMetrics
from trainer_core.train.optim.build import effective_lr
from trainer_core.train.trainer import STAGE, Trainer
from trainer_core.types import Batch, ProgressEvent

log = logging.getLogger(__name__)


class RunMonitor:
    """Records losses without waiting for the device, and reports metrics every `logging.every` steps."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        settings = trainer.project.train
        capacity = trainer.project.logging.every * settings.gradient_accumulation_steps
        self.recorder = LossRecorder(capacity, trainer.accelerator.device)
        self.clock = Stopwatch()
        self.clock.restart()
        self.losses: dict[int, float] = {}
        self.watch, self.peak = AnomalyWatch(), PeakMemory()
        self.gpu = _gpu_uuid(trainer.accelerator.device)
        self.file = None
        if trainer.accelerator.is_main_process:
            self.file = MetricsFile(trainer.workdir / "metrics.jsonl", trainer.step)

    def next_batch(self, batches: Iterator[Batch]) -> Batch:
        """Take the next batch and add the time that it took to the time waited."""
        began = time.perf_counter()
        with self.trainer.phases.phase("data"):
            batch = next(batches)
        self.clock.waited += time.perf_counter() - began
        return batch

    def record(self, number: int, loss: Tensor, samples: int) -> None:
        """Keep a loss on the device."""
        if self.recorder.full:
            self.check_finite()
        self.recorder.add(number, loss)
        self.clock.samples += samples

    def after_step(self) -> None:
        """Count a step; at logging steps read the losses, write and report metrics."""
        trainer, total = self.trainer, self.trainer.total_steps
        self.clock.steps += 1
        values: dict[str, float] = {}
        if trainer.step % trainer.project.logging.every == 0 or trainer.step == total:
            self.check_finite()
            metrics = self._metrics()
            values = {"loss": metrics.loss, "lr": metrics.lr, "grad_norm": metrics.grad_norm or 0.0}
            values |= {"it/s": metrics.it_per_s, "samples/s": metrics.samples_per_s}
            values |= {"memory_mib": metrics.memory_mib, "data_wait": metrics.data_wait, "peak_mib": metrics.peak_mib}
            values |= metrics.gpu
            if self.file:
                self.file.write(metrics)
                trainer.trackers.log(metrics.curves(), trainer.step)
            self.losses.clear()
            self.clock.restart()
        if trainer.accelerator.is_main_process:
            trainer.report(ProgressEvent(STAGE, trainer.step, total, "step", values))

    def check_finite(self) -> None:
        """Read the recorded losses (waits for the device) and stop at the first that is not finite."""
        self.losses |= (taken := self.recorder.take())
        if (number := first_bad(taken)) is None:
            self._check_gradients()
        else:
            samples = [draw.sample_id for draw in self.trainer.order.micro_batch(number)]
            per_step = self.trainer.project.train.gradient_accumulation_steps * self.trainer.accelerator.num_processes
            message = (
                f"the loss of step {number // per_step + 1} is {taken[number]} for {', '.join(samples)}. Training "
                "stopped; the last good checkpoint stays. Lower optimizer.lr, use train.precision bf16 or fp32, or "
                "look at these pictures."
            )
            raise NonFiniteError(message, samples, number)

    def _check_gradients(self) -> None:
        """Stop where the gradient norm is not finite: it spoils the weights before any loss shows it.

        fp16's scaler skips such steps by itself.
        """
        trainer = self.trainer
        if trainer.accelerator.scaler is None and trainer.last_grad_norm is not None:
            norm = float(trainer.last_grad_norm)
            if not math.isfinite(norm):
                message = f"the gradient norm of step {trainer.step} is {norm}. Training stopped; the last good "
                fix = "checkpoint stays. Lower optimizer.lr, or use train.precision fp32."
                raise NonFiniteError(message + fix, ())

    def _metrics(self) -> StepMetrics:
        trainer = self.trainer
        it_per_s, samples_per_s, waited = self.clock.rates()
        world = trainer.accelerator.num_processes
        mean = torch.tensor(sum(self.losses.values()) / max(1, len(self.losses)), device=trainer.accelerator.device)
        loss: Any = trainer.accelerator.reduce(mean, reduction="mean") if world > 1 else mean
        norm = trainer.last_grad_norm
        peak, sensors = take_peak(), read_sensors(self.gpu) if self.gpu else None
        self.peak = self.peak.with_(peak)
        unusual = self.watch.examine(float(loss), it_per_s, () if sensors is None else sensors.throttled)
        for finding in unusual:
            log.warning("step %d: %s %s %s", trainer.step, finding.field, finding.message, finding.fix)
        return StepMetrics(
            step=trainer.step,
            loss=float(loss),
            lr=effective_lr(trainer.optimizer),
            grad_norm=None if norm is None or not math.isfinite(float(norm)) else float(norm),
            it_per_s=it_per_s,
            samples_per_s=samples_per_s * world,
            memory_mib=resident_memory_mib(),
            data_wait=waited,
            time=iso_time(),
            phases={name: seconds / max(1, self.clock.steps) for name, seconds in trainer.phases.take().items()},
            peak_mib=peak.allocated,
            reserved_mib=peak.reserved,
            gpu={} if sensors is None else sensors.values(),
            anomalies=[f"{finding.field} {finding.message}" for finding in unusual],
            rates=trainer.learning_rates(),
        )


def _gpu_uuid(device: torch.device) -> str:
    """Return the name by which the driver knows a GPU; empty for a CPU."""
    if device.type != "cuda":
        return ""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
