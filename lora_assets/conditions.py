"""When automation makes an asset.

An asset is requested when it was made before and is stale now, everything above it is fresh, and its project has no
unfinished run. What a person stopped, what failed, and what was made with other settings on purpose is left alone until
something changes that the run did not know when it began.

The conditions have no memory: each is a function of Dagster's records and of the loaded code. So a tick can be skipped
when neither changed (`sensors/automation.py`).
"""

from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import cached_property, lru_cache

import dagster as dg

from lora_assets import upstream
from lora_assets.upstream import AssetGraphView

CODE_VERSION = "lora-assets/code_version"
"""Tag of an asset's op, which Dagster keeps with each planned run, and of overridden results: the code version that the
project's own settings give."""
OVERRIDES = "lora-assets/overrides"
"""Tag of a run and of its results, where the run had settings of its own: those settings. A result's tag can hold few
letters, so it has other signs replaced; its metadata has them in full."""


def when_stale() -> dg.AutomationCondition:
    """Return the condition of every stage's asset."""
    return (
        Holds("made_before_and_stale_now", is_stale)
        & Holds("everything_above_is_fresh", ancestors_are_fresh)
        & ~Holds("project_has_unfinished_run", project_has_unfinished_run)
        & ~Holds("stopped_failed_or_overridden_and_nothing_new", stopped_and_nothing_new)
    )


@dataclass(frozen=True)
class Facts:
    """What the conditions of one evaluation share, so that Dagster's records are read once."""

    view: AssetGraphView

    @cached_property
    def staleness(self) -> upstream.Staleness:
        """Dagster's own staleness."""
        return upstream.Staleness(self.view)

    @cached_property
    def busy_groups(self) -> Set[str]:
        """Asset groups with an unfinished run."""
        graph = self.view.asset_graph
        made = {key for keys in upstream.unfinished_runs(self.view.instance).values() for key in keys}
        return {graph.get(key).group_name for key in made if graph.has(key)}


@lru_cache(maxsize=2)
def facts_of(view: AssetGraphView) -> Facts:
    """Return the facts of an evaluation; Dagster makes a new view for each."""
    return Facts(view)


@dataclass(frozen=True)
class Holds(dg.AutomationCondition):
    """A condition that is true or false for an asset as a whole."""

    label: str
    """What the UI shows. Dagster makes the id of a condition from it."""
    predicate: Callable[[Facts, dg.AssetKey], bool]

    @property
    def name(self) -> str:
        """What the UI shows."""
        return self.label

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """Answer for the asset, unless an earlier condition has ruled it out."""
        candidates = context.candidate_subset
        if candidates.is_empty or not self.predicate(facts_of(context.asset_graph_view), context.key):
            candidates = context.get_empty_subset()
        return dg.AutomationResult(context, candidates)


def is_stale(facts: Facts, key: dg.AssetKey) -> bool:
    """Return whether Dagster calls the asset stale; an asset that was never made is not stale but missing.

    A level, not an edge: conditions that wait for an update lose the one that comes while the asset is being made,
    which for training takes hours.
    """
    return facts.staleness.is_stale(key)


def ancestors_are_fresh(facts: Facts, key: dg.AssetKey) -> bool:
    """Return whether nothing above the asset is stale or missing.

    Staleness reaches one level: without this an asset with several parents would start before the work above it is
    done, and do that work within its own step; or again and again, where a parent failed.
    """
    ancestors = facts.view.asset_graph.get_ancestor_asset_keys(key)
    return all(facts.staleness.is_fresh(ancestor) for ancestor in ancestors)


def project_has_unfinished_run(facts: Facts, key: dg.AssetKey) -> bool:
    """Return whether any run that makes an asset of the project has not ended.

    Dagster's `in_progress` asks only the newest run that planned the asset, and does not count a run that was created
    and not yet queued.
    """
    return facts.view.asset_graph.get(key).group_name in facts.busy_groups


def stopped_and_nothing_new(facts: Facts, key: dg.AssetKey) -> bool:
    """Return whether the last run was stopped, failed or had overrides, and nothing has changed since it began."""
    run = blocking_run(facts.view.instance, key)
    return run is not None and not _something_new(facts.view, key, run)


@dataclass(frozen=True)
class BlockingRun:
    """A run that was stopped, failed or had overrides, and what it knew: automation repeats it only after a change."""

    run_id: str
    began: float
    """When it began to make the asset, in seconds since 1970. What changed before, while it waited in the queue or for
    its pool, it saw."""
    code_version: str | None
    """Code version of the asset by the project's own settings, where it is on record."""


def blocking_run(instance: dg.DagsterInstance, key: dg.AssetKey) -> BlockingRun | None:
    """Return the asset's last run if it ended without making the asset, or made it with settings of its own."""
    plan, made = upstream.latest_plan(instance, key), upstream.version_record(instance, key, observed=False)
    if plan and (made is None or made.storage_id < plan.storage_id):
        code_version = upstream.op_tag_at_planning(instance, plan.run, key, CODE_VERSION)
        return BlockingRun(plan.run.run_id, upstream.began(instance, plan.run.run_id, key) or 0.0, code_version)
    if made and OVERRIDES in made.tags:
        began = upstream.began(instance, made.run_id, key) or made.timestamp
        return BlockingRun(made.run_id, began, made.tags.get(CODE_VERSION))
    return None


def _something_new(view: AssetGraphView, key: dg.AssetKey, run: BlockingRun) -> bool:
    """Return whether the settings, or a result or source above the asset, are other than the run knew or made them."""
    graph = view.asset_graph
    if run.code_version is not None and graph.get(key).code_version != run.code_version:
        return True
    return any(_changed(view, ancestor, run) for ancestor in graph.get_ancestor_asset_keys(key))


def _changed(view: AssetGraphView, key: dg.AssetKey, run: BlockingRun) -> bool:
    """Return whether something other than the run gave an asset a data version that the run did not see."""
    instance, observed = view.instance, view.asset_graph.get(key).is_observable
    now = upstream.version_record(instance, key, observed)
    if now is None or now.timestamp <= run.began or now.run_id == run.run_id:
        return False
    known = upstream.version_in_run(instance, key, run.run_id)
    return now.version != (known or upstream.version_at(instance, key, observed, run.began))
