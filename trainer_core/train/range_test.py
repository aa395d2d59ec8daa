"""What a learning-rate range test is asked for, and what it found. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from trainer_core.config.project import Project
from trainer_core.errors import ConfigError
from trainer_core.train.optim.findings import is_adaptive
from trainer_core.types import JSON, Finding

PICTURE, FIGURES = "find_lr.png", "find_lr.json"
"""In `outputs/NAME/`."""


@dataclass(frozen=True)
class RangeTest:
    """Which rates are tried."""

    first: float
    last: float
    steps: int

    def rate(self, step: int) -> float:
        """Return the rate of a step counted from 0: evenly spread over the orders of magnitude."""
        return self.first * (self.last / self.first) ** (step / max(1, self.steps - 1))


@dataclass(frozen=True)
class Reading:
    """One step."""

    rate: float
    loss: float
    share: float
    """Running mean of the losses over that of the untrained model on the same draws; below 1 it has learnt."""


@dataclass(frozen=True)
class FoundLr:
    """The result of the test."""

    readings: tuple[Reading, ...]
    steepest: float | None
    """Rate at which the loss falls fastest; None where no rate lowered it."""
    lowest: float | None
    """Rate at which the loss is lowest."""
    diverged: float | None
    """Rate at which the loss diverged; None where the range ended before."""

    @property
    def ended_too_soon(self) -> bool:
        """Whether the loss was still falling, or at its lowest, where the range ended: a higher rate may be better."""
        if self.diverged is not None or self.lowest is None:
            return False
        shares = [reading.share for reading in self.readings]
        # A loss that has come back by a tenth of what it fell has turned.
        return shares[-1] - min(shares) < 0.1 * (1.0 - min(shares))

    @property
    def suggested(self) -> float | None:
        """The more careful of two usual answers: where the loss falls fastest, and a tenth of where it is lowest."""
        if self.steepest is None or self.lowest is None:
            return None
        return float(f"{min(self.steepest, self.lowest / 10):.1e}")

    def as_dict(self) -> dict[str, JSON]:
        """The stable JSON form of `find-lr --json`."""
        return {
            "suggested": self.suggested,
            "steepest": self.steepest,
            "tenth_of_lowest": None if self.lowest is None else self.lowest / 10,
            "lowest": self.lowest,
            "diverged": self.diverged,
            "ended_too_soon": self.ended_too_soon,
            "readings": [asdict(reading) for reading in self.readings],
        }


def refuse_adaptive(project: Project) -> None:
    """Stop where there is no rate to find.

    Raises:
        ConfigError: the optimizer finds its own rate.
    """
    if is_adaptive(project.optimizer):
        message = f"{project.optimizer.name} finds its own learning rate: there is nothing to test."
        fix = "Leave `optimizer.lr` at 1.0, or choose another optimizer."
        raise ConfigError([Finding("error", "optimizer.name", message, fix)])
