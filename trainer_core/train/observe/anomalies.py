"""What goes wrong slowly: losses that jump, steps that become slower, a GPU that lowers its clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from trainer_core.types import Finding

_WINDOW, _FEWEST = 20, 5
_SPIKE, _SLOW = 8.0, 0.5
_QUIET = 20
"""Lines for which an anomaly that was reported is not reported again."""
_PATIENCE = 3
"""Lines in a row in which a clock must be lowered."""


@dataclass
class AnomalyWatch:
    """Compares each line of metrics with the lines before it."""

    _losses: deque[float] = field(default_factory=lambda: deque[float](maxlen=_WINDOW))
    _speeds: deque[float] = field(default_factory=lambda: deque[float](maxlen=_WINDOW))
    _throttled: int = 0
    _silent: dict[str, int] = field(default_factory=dict[str, int])

    def examine(self, loss: float, it_per_s: float, throttled: Sequence[str] = ()) -> list[Finding]:
        """Return what is unusual about a line of metrics, each kind once in a while.

        Args:
            loss: mean of the line.
            it_per_s: steps a second of the line.
            throttled: why the GPU's clock is lowered, in words.
        """
        self._silent = {name: left - 1 for name, left in self._silent.items() if left > 1}
        self._throttled = self._throttled + 1 if throttled else 0
        found = [*self._spike(loss), *self._slower(it_per_s), *self._hot(throttled)]
        self._losses.append(loss)
        self._speeds.append(it_per_s)
        new = [finding for finding in found if finding.field not in self._silent]
        self._silent |= {finding.field: _QUIET for finding in new}
        return new

    def _spike(self, loss: float) -> list[Finding]:
        if len(self._losses) < _FEWEST:
            return []
        usual = median(self._losses)
        spread = median(abs(one - usual) for one in self._losses)
        if loss <= usual + _SPIKE * max(spread, 0.05 * abs(usual)):
            return []
        message = f"is {loss:.4g}, where it was {usual:.4g} before (median of {len(self._losses)} lines)."
        fix = "If it does not come back, lower optimizer.lr or optimizer.max_grad_norm, and look at the pictures."
        return [Finding("warning", "loss", message, fix)]

    def _slower(self, it_per_s: float) -> list[Finding]:
        if len(self._speeds) < _FEWEST or it_per_s >= _SLOW * (usual := median(self._speeds)):
            return []
        message = f"is {it_per_s:.3g} steps/s, where it was {usual:.3g} before."
        fix = "Look for other work on this machine, heat, a disk that is full or slow, or memory that is swapped."
        return [Finding("warning", "speed", message, fix)]

    def _hot(self, throttled: Sequence[str]) -> list[Finding]:
        if self._throttled < _PATIENCE:
            return []
        message = f"lowers its clock: {', '.join(throttled)}."
        return [
            Finding(
                "warning", "gpu", message, "Look at its cooling and its power limit (`nvidia-smi -q -d PERFORMANCE`)."
            )
        ]
