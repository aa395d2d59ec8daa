"""What a stage is, what it sees, and what it leaves.

A stage is data and a few functions. It sees only the settings that it declares: pyright refuses to read another, so a
key that is made from the declaration cannot lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from trainer_core.config.reads import StageSettings, declared_settings, read_settings, settings_key
from trainer_core.families.spec import FamilySpec
from trainer_core.stages.project.session import Session
from trainer_core.stages.project.workspace import Workspace
from trainer_core.store import Published
from trainer_core.types import JSON, Finding, ProgressEvent

S = TypeVar("S", bound=StageSettings)
S_co = TypeVar("S_co", bound=StageSettings, covariant=True)


@dataclass(frozen=True)
class CacheItem:
    """One sample's entry in a cache stage."""

    key: str
    """Digest of all parts: the entry's address in the store."""
    parts: Mapping[str, JSON]
    """Everything that decides the entry's bytes, by name, so that `plan` can say what changed."""


@dataclass(frozen=True)
class StageContext(Generic[S_co]):
    """What a running stage sees."""

    settings: S_co
    """The declared settings."""
    workspace: Workspace
    """Store, base model, pictures and machine."""
    upstream: Mapping[str, Published]
    """What the stages in `needs` published."""
    list_items: Callable[[StageContext[Any]], dict[str, CacheItem]] | None = None
    """The stage's own `items`."""
    staging: Path = Path()
    """An empty folder: every file written here is published with the result."""

    @cached_property
    def items(self) -> Mapping[str, CacheItem]:
        """Sample id -> entry; listed when first asked for, as a no-op over 10,000 pictures must stay fast."""
        return {} if self.list_items is None else self.list_items(self)

    def report(self, stage: str, done: int, total: int, unit: str) -> None:
        """Report how far the stage is."""
        self.workspace.report(ProgressEvent(stage, done, total, unit))


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
class Stage(Generic[S]):
    """One step of the pipeline, as data."""

    name: str
    version: int
    """Raise it when the same inputs would give another result."""
    description: str
    settings: type[S]
    """Declares the settings that decide the result."""
    needs: tuple[str, ...]
    """Stages whose results are read."""
    run: Callable[[StageContext[S]], Outcome]
    inputs: Callable[[StageContext[S]], JSON]
    """Everything else that decides the result: fingerprints of weights, precisions, the dataset."""
    items: Callable[[StageContext[S]], dict[str, CacheItem]] | None = None
    """For stages that work by sample: what each sample's share depends on."""
    cached: bool = False
    """Whether each item is an entry in the store, shared by all projects."""
    data_version: Callable[[StageContext[S]], str] | None = None
    """For stages whose result is known without running them: its data version."""
    code: Callable[[FamilySpec], JSON] = lambda spec: None
    """Versions of code below the stage that its result depends on."""
    total: Callable[[StageContext[S]], int] = lambda context: 1
    """Items of work in a run from nothing."""
    outputs: Mapping[str, str] = field(default_factory=dict[str, str])
    """File of the result -> its name in `outputs/NAME/`; `{name}` is the project's."""
    is_own_output: Callable[[str, str], bool] = lambda name, output_name: False
    """(name of an output, what the project's files are called) -> whether this stage left it. Those that its result has
    no file for are removed."""
    more_outputs: Callable[[Published], Mapping[str, str]] = lambda published: published.metadata.get("outputs", {})
    """Result -> further files of it, as in `outputs`, where they differ from result to result."""
    forecast: Callable[[StageContext[S], Mapping[str, str], Mapping[str, Mapping[str, str]]], str] = (
        lambda context, upstream, entries: ""
    )
    """(context, stage -> data version of its result, stage -> name of an entry -> its key) ->
    what a stale stage will do, in words for `plan`: where training
    goes on from. Must cost next to nothing."""
    less_memory: str = ""
    """What to change when memory runs out."""
    before_run: Callable[[Session], Sequence[Finding]] = lambda session: ()
    """What is worth knowing before the stage works; it is logged."""
    after_publish: Callable[[Session, Mapping[str, Published], Published], Mapping[str, JSON]] = (
        lambda session, upstream, published: {}
    )
    """Hook run after the stage, whether computed or reused (promotion). Runs on every no-op: keep it cheap."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The settings that it declares: `group` or `group.field`."""
        return declared_settings(self.settings)

    @property
    def keyed(self) -> tuple[str, ...]:
        """Those of them whose values are in its key."""
        return declared_settings(self.settings, keyed_only=True)

    def context(self, session: Session, upstream: Mapping[str, Published]) -> StageContext[S]:
        """Return what it sees of a project."""
        return StageContext(read_settings(self.settings, session.project), session.workspace, upstream, self.items)

    def recipe(self, context: StageContext[S], upstream: Mapping[str, str]) -> dict[str, JSON]:
        """Return everything that decides the result; its digest is the result's key.

        Args:
            context: what the stage sees.
            upstream: data versions of the results in `needs`.
        """
        recipe: dict[str, JSON] = {"stage": self.name, "version": self.version, "inputs": self.inputs(context)}
        if self.data_version is None:
            # Where the result is known beforehand its inputs say it all; else settings and upstream results decide.
            recipe["settings"] = settings_key(context.settings)
            recipe["upstream"] = dict(upstream)
        return recipe
