"""Learning-rate schedules as pure functions of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Callable

from trainer_core.config.groups import ScheduleConfig

SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}
"""Share of the peak rate by progress in [0, 1) after the warm-up."""


def lr_multiplier(step: int, schedule: ScheduleConfig, total_steps: int) -> float:
    """Return the share of the peak rate for optimizer step `step`, counted from 0.

    The warm-up rises linearly and reaches the peak at its last step, as in diffusers' `get_scheduler`, except that the
    very first step already moves (a rate of exactly 0 would waste it).
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    after = max(1, total_steps - schedule.warmup_steps)
    return SHAPES[schedule.name](min(1.0, (step - schedule.warmup_steps) / after))
