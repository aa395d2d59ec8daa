"""Averaged weights, which are measured, saved and exported instead of the trained ones.

Two things average weights: `train.ema_decay`, and schedule-free optimizers, whose own average is the result (arXiv
2405.15682). While the average is in the model the trained weights wait beside it, and come back bit for bit, so that
neither measuring nor saving changes a run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.training_utils import EMAModel
from torch import nn

if TYPE_CHECKING:
    from trainer_core.train.optim.build import TrainedPart


@dataclass(frozen=True)
class Averages:
    """The averages of a run's weights."""

    parameters: Sequence[nn.Parameter]
    ema: EMAModel | None
    """diffusers' own: min(decay, (1 + n) / (10 + n)) after n updates, and the first update whole. Float32, like the
    adapter. torch's AveragedModel copies the whole module, the frozen base included."""
    schedule_free: Any = None
    """The optimizer, where it averages by itself."""

    def update(self) -> None:
        """Take the weights of a step into the average."""
        if self.ema is not None:
            self.ema.step(self.parameters)

    def state(self) -> Mapping[str, Any] | None:
        """Return what `restore` needs; a schedule-free optimizer keeps its own."""
        return None if self.ema is None else self.ema.state_dict()

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Put back what `state` returned."""
        if self.ema is not None and state is not None:
            self.ema.load_state_dict(dict(state))
            self.ema.to(device=self.parameters[0].device)


def make_averages(parts: Sequence[TrainedPart], optimizer: Any, decay: float) -> Averages | None:
    """Return the averages that the settings ask for, or None where the trained weights are the result.

    Args:
        parts: what is trained.
        optimizer: the bare optimizer.
        decay: `train.ema_decay`; 0 is none.
    """
    schedule_free = optimizer if is_schedule_free(optimizer) else None
    if not decay and schedule_free is None:
        return None
    parameters = [parameter for part in parts for parameter in part.parameters.values()]
    if not decay:
        return Averages(parameters, None, schedule_free)
    return Averages(parameters, EMAModel(parameters, decay=decay, foreach=True), schedule_free)


def is_schedule_free(optimizer: Any) -> bool:
    """Whether the optimizer has a mode for training and one for its averaged weights."""
    return "train_mode" in optimizer.param_groups[0] and callable(getattr(optimizer, "eval", None))


@contextlib.contextmanager
def published_weights(averages: Averages | None) -> Generator[None]:
    """Have the averaged weights in the model for a block; without averages, the weights as they are."""
    if averages is None:
        yield
        return
    trained = [parameter.detach().clone() for parameter in averages.parameters]
    if averages.schedule_free is not None:
        averages.schedule_free.eval()
    if averages.ema is not None:
        averages.ema.copy_to(averages.parameters)
    try:
        yield
    finally:
        if averages.schedule_free is not None:
            averages.schedule_free.train()
        with torch.no_grad():
            for parameter, weights in zip(averages.parameters, trained, strict=True):
                parameter.copy_(weights)
