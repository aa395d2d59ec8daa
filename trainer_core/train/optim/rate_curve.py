"""The learning rate of a run over its steps: for programs, and drawn in text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer_core.train.optim.findings import is_adaptive
from trainer_core.train.optim.schedules import curve, warmup_steps
from trainer_core.types import JSON

if TYPE_CHECKING:
    from trainer_core.config.project import Project

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_COLUMNS, _ROWS = 60, 5


@dataclass(frozen=True)
class RateCurve:
    """What the schedule makes of the peak rate."""

    name: str
    peak: float
    warmup: int
    points: tuple[tuple[int, float], ...]
    """(step counted from 1, rate), the first and the last step among them."""
    adaptive: bool
    """The optimizer multiplies the rate by an estimate of its own."""

    @classmethod
    def of(cls, project: Project, steps: int) -> RateCurve:
        """Return the curve of a project's denoiser over a run of so many steps."""
        schedule, peak = project.schedule, project.optimizer.lr
        points = tuple(curve(schedule, peak, steps))
        return cls(schedule.name, peak, warmup_steps(schedule, steps), points, is_adaptive(project.optimizer))

    @property
    def end(self) -> float:
        """Rate of the last step."""
        return self.points[-1][1]

    def as_dict(self) -> dict[str, JSON]:
        """The stable JSON form of `plan --json`."""
        return {
            "name": self.name,
            "peak": self.peak,
            "end": self.end,
            "warmup_steps": self.warmup,
            "steps": self.points[-1][0],
            "points": [list(point) for point in self.points],
        }

    def drawn(self) -> list[str]:
        """Return the curve as lines of text, below a line that describes it."""
        warmup = f" after {self.warmup} warm-up steps" if self.warmup else ""
        own = " (times the optimizer's own estimate)" if self.adaptive else ""
        title = f"learning rate{own}: {self.name}, peak {self.peak:.3g}{warmup}, "
        rates = [self.points[len(self.points) * column // _COLUMNS][1] for column in range(_COLUMNS)]
        highest = max(rate for _, rate in self.points)
        rows = bars([rate / highest for rate in rates], _ROWS)
        labels = [f"{highest:.2g}", *[""] * (_ROWS - 2), "0"]
        width = max(map(len, labels))
        last = self.points[-1][0]
        axis = f"{'':>{width}} └{'─' * _COLUMNS}"
        ends = f"{'':>{width}}  1{last:>{_COLUMNS - 1}}"
        lines = [f"{label:>{width}} │{row}" for label, row in zip(labels, rows, strict=True)]
        return [f"{title}{self.end:.3g} at the end (step {last})", *lines, axis, ends]


def bars(heights: Sequence[float], rows: int) -> list[str]:
    """Draw heights in [0, 1] as columns of eighths of a character, the top row first."""
    eighths = [round(height * rows * 8) for height in heights]
    return [
        "".join(_EIGHTHS[max(0, min(8, height - 8 * row))] for height in eighths).rstrip()
        for row in reversed(range(rows))
    ]
