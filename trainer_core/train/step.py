"""One optimizer step: gradients of its micro-batches, done again with less memory where it ran out, and the update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer_core.adapters.adapter import draws
from trainer_core.diffusion.noise import derive_seed
from trainer_core.errors import LoraAssetsError
from trainer_core.hardware.out_of_memory import empty_cache, is_out_of_memory, release
from trainer_core.train.memory.batches import parts_of
from trainer_core.train.memory.offload import activations_offloaded
from trainer_core.train.objective import training_loss
from trainer_core.train.run_monitor import RunMonitor
from trainer_core.train.trainer import Trainer, micro_batch_number
from trainer_core.types import Batch


@dataclass
class BatchStream:
    """The micro-batches of a run in order, prepared ahead of the step."""

    trainer: Trainer
    batches: Iterator[Batch] = iter(())

    def restart(self) -> None:
        """Go back, or on, to the first micro-batch of the step that the trainer is at."""
        if isinstance(close := getattr(self.batches, "close", None), Callable):
            close()
        trainer = self.trainer
        first = micro_batch_number(trainer, trainer.step, 0)
        end = micro_batch_number(trainer, trainer.total_steps, 0)
        self.batches = trainer.loader.stream(range(first, end, trainer.accelerator.num_processes))


@dataclass(frozen=True)
class _Loss:
    """The loss of a micro-batch."""

    number: int
    value: Tensor
    samples: int


def optimizer_step(
    trainer: Trainer, stream: BatchStream, monitor: RunMonitor, leave_if_stopped: Callable[[], None]
) -> None:
    """Accumulate the gradients of one step and update the weights.

    Args:
        trainer: at the step.
        stream: of its micro-batches.
        monitor: records the losses.
        leave_if_stopped: called between two micro-batches; leaves by an exception where the run is to stop.

    Raises:
        LoraAssetsError: memory ran out, and there is nothing left to do about it.
    """
    multiplier = trainer.share_of_peak()
    for group in trainer.optimizer.param_groups:
        group["lr"] = group["peak_lr"] * multiplier
    while (losses := _gradients_or_lower(trainer, stream, monitor, leave_if_stopped)) is None:
        stream.restart()
    for loss in losses:
        monitor.record(loss.number, loss.value, loss.samples)
    _update_or_end(trainer)


def _gradients_or_lower(
    trainer: Trainer, stream: BatchStream, monitor: RunMonitor, leave_if_stopped: Callable[[], None]
) -> list[_Loss] | None:
    """Return the losses of the step's micro-batches, their gradients added up; None where memory ran out."""
    accumulated = trainer.accelerator.step
    try:
        return _gradients(trainer, stream, monitor, leave_if_stopped)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        text = release(error)
    # Outside of the `except` block, where nothing holds the activations any more.
    trainer.accelerator.step = accumulated
    trainer.optimizer.zero_grad()
    for parameter in trainer.parameters:
        parameter.grad = None
    empty_cache()
    trainer.fitted.use(trainer.ladder.lower(trainer.step, text))
    empty_cache()
    return None


def _gradients(
    trainer: Trainer, stream: BatchStream, monitor: RunMonitor, leave_if_stopped: Callable[[], None]
) -> list[_Loss]:
    settings, accelerator = trainer.project.train, trainer.accelerator
    losses: list[_Loss] = []
    for accumulation in range(settings.gradient_accumulation_steps):
        if accumulation:
            leave_if_stopped()
        number = micro_batch_number(trainer, trainer.step, accumulation)
        batch = monitor.next_batch(stream.batches)
        with accelerator.accumulate(trainer.denoiser):
            # Dropout draws from torch's own generators: seeding them from the number keeps resuming exact.
            if draws(trainer.project.adapter):
                torch.manual_seed(settings.seed + number)
            losses.append(_Loss(number, _backward(trainer, batch), len(batch.sample_ids)))
    return losses


def _backward(trainer: Trainer, batch: Batch) -> Tensor:
    """Add the gradients of a micro-batch, in parts where the plan says so, and return its loss."""
    plan = trainer.ladder.plan
    total: Tensor | None = None
    for part, share in parts_of(batch, plan.micro_batch):
        with trainer.phases.phase("forward"), activations_offloaded(plan.offload_activations):
            loss = training_loss(trainer, part)
            loss = loss if share == 1.0 else loss * share
        with trainer.phases.phase("backward"):
            trainer.accelerator.backward(loss)
        total = loss.detach() if total is None else total + loss.detach()
    assert total is not None, "a micro-batch without samples"
    return total


def _update_or_end(trainer: Trainer) -> None:
    """Update the weights.

    Raises:
        LoraAssetsError: memory ran out. Some weights may have been updated, so this step cannot be done again.
    """
    try:
        with trainer.phases.phase("optimizer"):
            _update(trainer)
        return
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        text = release(error)
    trainer.ladder.lower(trainer.step, text)
    message = (
        f"out of memory while step {trainer.step + 1} updated the weights ({text}). The same command goes on from "
    )
    raise LoraAssetsError(f"{message}the last checkpoint, with {trainer.ladder.taken[-1].measure}.")


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
