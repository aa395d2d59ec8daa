"""What a stage is, what it sees, and what it leaves.

A stage is data and a few functions. It sees only the settings that it declares in `reads` (touching another raises), so
a key that is made from those settings cannot lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from trainer_core.config.reads import Slice
from trainer_core.families.spec import FamilySpec
from trainer_core.stages.project.session import Session
from trainer_core.store import Published
from trainer_core.types import JSON, ProgressEvent


@dataclass(frozen=True)
class Item:
    """One sample's entry in a cache stage."""

    key: str
    """Digest of all parts: the entry's address in the store."""
    parts: Mapping[str, JSON]
    """Everything that decides the entry's bytes, by name, so that `plan` can say what changed."""


@dataclass(frozen=True)
class StageContext:
    """What a running stage sees."""

    settings: Slice
    """The declared settings only; reading another raises."""
    session: Session
    upstream: Mapping[str, Published]
    """What the stages in `needs` published."""
    list_items: Callable[[StageContext], dict[str, Item]] | None = None
    """The stage's own `items`."""
    staging: Path = Path()
    """An empty folder: every file written here is published with the result."""

    @cached_property
    def items(self) -> Mapping[str, Item]:
        """Sample id -> entry; listed when first asked for, as a no-op over 10,000 pictures must stay fast."""
        return {} if self.list_items is None else self.list_items(self)

    def report(self, stage: str, done: int, total: int, unit: str) -> None:
        """Tell how far the stage is."""
        self.session.report(ProgressEvent(stage, done, total, unit))


@dataclass(frozen=True)
class Outcome:
    """What a stage computed."""

    data_version: str
    """Digest of what the result means: an equal result has an equal version, however it came about."""
    metadata: Mapping[str, JSON] = field(default_factory=dict[str, JSON])
    """Figures and tables for people; never part of a key."""
    items_computed: int = 0
    items_reused: int = 0


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline, as data."""

    name: str
    version: int
    """Raise it when the same inputs would give another result."""
    description: str
    reads: tuple[str, ...]
    """Settings that decide the result: `group` or `group.field`."""
    needs: tuple[str, ...]
    """Stages whose results are read."""
    run: Callable[[StageContext], Outcome]
    inputs: Callable[[StageContext], JSON]
    """Everything else that decides the result: fingerprints of weights, precisions, the dataset."""
    items: Callable[[StageContext], dict[str, Item]] | None = None
    """For stages that work by sample: what each sample's share depends on."""
    cached: bool = False
    """Whether each item is an entry in the store, shared by all projects."""
    data_version: Callable[[StageContext], str] | None = None
    """For stages whose result is known without running them: its data version."""
    code: Callable[[FamilySpec], JSON] = lambda spec: None
    """Versions of code below the stage that its result depends on."""
    total: Callable[[StageContext], int] = lambda context: 1
    """Items of work in a run from nothing."""
    outputs: Mapping[str, str] = field(default_factory=dict[str, str])
    """File of the result -> its name in `outputs/NAME/`; `{name}` is the project's."""
    owns: Callable[[str, str], bool] = lambda name, output_name: False
    """(name of an output, what the project's files are called) -> whether this stage left it. Those that its result has
    no file for are removed. `outputs` in a result's metadata names further files of it, as `outputs` here does."""
    forecast: Callable[[StageContext, Mapping[str, str]], str] = lambda context, upstream: ""
    """(context, stage -> data version of its result) -> what a stale stage will do, in words for `plan`: where training
    goes on from. Must cost next to nothing."""
    settle: Callable[[StageContext, Published], Mapping[str, JSON]] = lambda context, published: {}
    """What the project decides over a result that is up to date, computed or reused. Must cost next to nothing."""
