"""What a run would do to a stage, and what it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trainer_core.store import Published
from trainer_core.types import JSON

Status = Literal["fresh", "stale", "missing"]


@dataclass(frozen=True)
class StagePlan:
    """What a run would do to a stage."""

    name: str
    status: Status
    reasons: tuple[str, ...]
    total: int
    """Items of work in a run from nothing: pictures, captions, steps ..."""
    stale: tuple[tuple[str, str], ...]
    """(sample id, reason) of every entry to compute, for stages that work by sample."""
    stale_count: int
    seconds: float | None
    """What it will take, from the speed of the last time; None when it never ran here."""
    data_version: str | None
    """What its result will be, where that is known beforehand."""

    def as_dict(self, examples: int = 10) -> dict[str, JSON]:
        """The stable JSON form of `plan --json`."""
        shown = [{"sample": sample, "reason": reason} for sample, reason in self.stale[:examples]]
        items = {"total": self.total, "stale": self.stale_count, "examples": shown}
        return {"name": self.name, "status": self.status, "reasons": list(self.reasons), "items": items}


@dataclass(frozen=True)
class StageResult:
    """What a run did to a stage."""

    name: str
    action: Literal["computed", "reused"]
    items_computed: int
    items_reused: int
    seconds: float
    published: Published = field(repr=False)
    outputs: tuple[Path, ...] = ()
    settled: Mapping[str, JSON] = field(default_factory=dict[str, JSON])
    """What the project decided over it."""

    @property
    def data_version(self) -> str:
        """What the result means."""
        return self.published.data_version

    def as_dict(self) -> dict[str, JSON]:
        """The stable JSON form of `train --json`."""
        return {
            "name": self.name,
            "action": self.action,
            "items_computed": self.items_computed,
            "items_reused": self.items_reused,
            "seconds": round(self.seconds, 3),
            "data_version": self.data_version,
        }
