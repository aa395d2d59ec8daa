"""Learning-rate schedules as pure functions of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Callable

from trainer_core.config.groups import ScheduleConfig

Shape = Callable[[float, ScheduleConfig, int], float]
"""(progress in [0, 1) after the warm-up, settings, steps of the run) -> height in [0, 1]."""


def _cosine(progress: float, schedule: ScheduleConfig, total_steps: int) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _cosine_with_restarts(progress: float, schedule: ScheduleConfig, total_steps: int) -> float:
    """Source: SGDR, arXiv 1608.03983, with cycles of one length, as transformers has it."""
    if progress >= 1.0:
        return 0.0
    return 0.5 * (1.0 + math.cos(math.pi * ((schedule.cycles * progress) % 1.0)))


def _rex(progress: float, schedule: ScheduleConfig, total_steps: int) -> float:
    """Source: REX, arXiv 2107.04197: (1 - p) / (1/2 + (1 - p) / 2)."""
    return (1.0 - progress) / (0.5 + 0.5 * (1.0 - progress))


def _warmup_stable_decay(progress: float, schedule: ScheduleConfig, total_steps: int) -> float:
    """Source: arXiv 2404.06395; it falls along half a cosine, transformers' and kohya's choice."""
    after, decay = _stable_and_decay(schedule, total_steps)
    return _cosine(max(0.0, (progress * after - (after - decay)) / decay), schedule, total_steps)


def _stable_and_decay(schedule: ScheduleConfig, total_steps: int) -> tuple[int, int]:
    """Return the steps after the warm-up, and how many of them at the end are the decay."""
    after = max(1, total_steps - warmup_steps(schedule, total_steps))
    return after, min(after, max(1, round(schedule.decay_ratio * total_steps)))


SHAPES: dict[str, Shape] = {
    "constant": lambda progress, schedule, total_steps: 1.0,
    "linear": lambda progress, schedule, total_steps: 1.0 - progress,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "polynomial": lambda progress, schedule, total_steps: (1.0 - progress) ** schedule.power,
    "rex": _rex,
    "warmup_stable_decay": _warmup_stable_decay,
}
"""Shape by name; `min_lr_ratio` is put under all of them."""


def warmup_steps(schedule: ScheduleConfig, total_steps: int) -> int:
    """Return the steps of the warm-up: those given, or the share of the run."""
    return schedule.warmup_steps or round(schedule.warmup_ratio * total_steps)


def lr_multiplier(step: int, schedule: ScheduleConfig, total_steps: int) -> float:
    """Return the share of the peak rate for optimizer step `step`, counted from 0.

    The warm-up rises linearly and reaches the peak at its last step, as in diffusers' `get_scheduler`, except that the
    very first step already moves (a rate of exactly 0 would waste it).
    """
    warmup = warmup_steps(schedule, total_steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    height = SHAPES[schedule.name](progress, schedule, total_steps)
    return height if not schedule.min_lr_ratio else schedule.min_lr_ratio + (1.0 - schedule.min_lr_ratio) * height


def steps_of_any_length(schedule: ScheduleConfig, total_steps: int) -> int:
    """Return how many steps at the start of a run have the same rates in every longer run.

    Training that far is the same whatever `train.steps` is, so a longer run can go on from there: all steps of a
    constant rate, those of `warmup_stable_decay` before its decay, and none of the other schedules.
    """
    if depends_on_length(schedule):
        return 0
    if schedule.name == "constant":
        return total_steps
    _, decay = _stable_and_decay(schedule, total_steps)
    return total_steps - decay


def depends_on_length(schedule: ScheduleConfig) -> str:
    """Return which setting makes the rates of all steps depend on `train.steps`, in words; empty if they do not."""
    if schedule.warmup_ratio and not schedule.warmup_steps:
        return "schedule.warmup_ratio is a share of train.steps"
    if schedule.name in ("constant", "warmup_stable_decay"):
        return ""
    return f"the {schedule.name} schedule depends on train.steps"


def curve(schedule: ScheduleConfig, peak: float, total_steps: int, points: int = 101) -> list[tuple[int, float]]:
    """Return (step, rate) at up to `points` evenly spread steps, the first and the last among them.

    Steps are counted from 1 here, as metrics count them: the rate is that of the update which finishes the step.
    """
    count = min(points, total_steps)
    steps = sorted({round((total_steps - 1) * point / max(1, count - 1)) for point in range(count)})
    return [(step + 1, peak * lr_multiplier(step, schedule, total_steps)) for step in steps]
