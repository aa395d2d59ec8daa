"""The one file that touches what Dagster does not promise to keep: tags of data versions, staleness, interruption.

Dagster brings no parents along when one asset is selected, and what a step logs about other assets carries no
provenance. So a step first brings its parents up to date (the stages do that by themselves) and writes what happened to
them into its own run, with the tags that Dagster would have written: the `Journal`. tests/unit/dagster/test_upstream.py
holds all this against the installed Dagster.
"""

import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    NULL_EVENT_POINTER,
    CachingStaleStatusResolver,
    StaleStatus,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.errors import DagsterExecutionInterruptedError

RunInterrupted = DagsterExecutionInterruptedError
"""Raised in a step, it makes a terminated run CANCELED instead of failed. A BaseException."""

Metadata = Mapping[str, dg.MetadataValue]


@contextmanager
def without_beta_warnings() -> Generator[None]:
    """Observable source assets and `use_user_code_server` are beta: known, and no news to a user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        yield


def recorded_version(instance: dg.DagsterInstance, key: dg.AssetKey, observed: bool) -> str | None:
    """Return the data version that Dagster knows of an asset.

    Args:
        instance: where Dagster keeps its records.
        key: the asset.
        observed: whether it is a source, which is observed, and not a stage, which is materialized.
    """
    return _latest(instance, key, observed)[0].get(DATA_VERSION_TAG)


def observation(key: dg.AssetKey, version: str) -> dg.AssetObservation:
    """Return the event that gives a source a data version."""
    return dg.AssetObservation(key, tags={DATA_VERSION_TAG: version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"})


class Journal:
    """Writes into the log of a run what a step learnt about the assets above its own."""

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._context = context
        self._versions: dict[dg.AssetKey, str] = {}
        self._sources: set[dg.AssetKey] = set()

    def observed(self, key: dg.AssetKey, version: str) -> None:
        """Note what a source is in this run; log it if that is news to Dagster."""
        self._versions[key] = version
        self._sources.add(key)
        if recorded_version(self._context.instance, key, observed=True) != version:
            self._context.log_event(observation(key, version))

    def is_news(self, key: dg.AssetKey, deps: Sequence[dg.AssetKey], code_version: str, version: str) -> bool:
        """Note what a parent is in this run; return whether Dagster has it recorded otherwise, or not at all."""
        self._versions[key] = version
        tags = self._tags(deps, code_version, version)
        recorded, _ = _latest(self._context.instance, key, observed=False)
        return any(recorded.get(name) != value for name, value in tags.items())

    def materialized(
        self, key: dg.AssetKey, deps: Sequence[dg.AssetKey], code_version: str, metadata: Metadata
    ) -> None:
        """Log that a parent was brought up to date, as its own step would have."""
        tags = self._tags(deps, code_version, self._versions[key]) | self._pointers(deps)
        self._context.log_event(dg.AssetMaterialization(key, metadata=metadata, tags=tags))

    def provenance(self, deps: Sequence[dg.AssetKey]) -> dict[str, str]:
        """Return the tags that say what the step's own result was made from.

        Dagster read the versions of the parents when the step began, which may have been before they were brought up to
        date; these tags replace those.
        """
        return self._inputs(deps) | self._pointers(deps)

    def _tags(self, deps: Sequence[dg.AssetKey], code_version: str, version: str) -> dict[str, str]:
        own = {DATA_VERSION_TAG: version, CODE_VERSION_TAG: code_version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
        return own | self._inputs(deps)

    def _inputs(self, deps: Sequence[dg.AssetKey]) -> dict[str, str]:
        return {get_input_data_version_tag(key): self._versions[key] for key in deps}

    def _pointers(self, deps: Sequence[dg.AssetKey]) -> dict[str, str]:
        records = {key: _latest(self._context.instance, key, key in self._sources)[1] for key in deps}
        return {get_input_event_pointer_tag(key): pointer for key, pointer in records.items()}


def _latest(instance: dg.DagsterInstance, key: dg.AssetKey, observed: bool) -> tuple[Mapping[str, str], str]:
    """Return tags and id of the event that last gave an asset its data version."""
    record = instance.get_latest_data_version_record(key, is_source=observed)
    if record is None:
        return {}, NULL_EVENT_POINTER
    return record.event_log_entry.tags or {}, str(record.storage_id)


def _answer(context: dg.AutomationContext, yes: bool) -> dg.AutomationResult:
    return dg.AutomationResult(context, context.candidate_subset if yes else context.get_empty_subset())


def _resolver(context: dg.AutomationContext) -> CachingStaleStatusResolver:
    view = context.asset_graph_view
    return CachingStaleStatusResolver(view.instance, view.asset_graph, view)


class IsStale(dg.AutomationCondition):
    """True as long as Dagster calls the asset stale or missing.

    A level, not an edge: conditions that wait for an update lose the one that comes while the asset is being made,
    which for training takes hours.
    """

    @property
    def name(self) -> str:
        """What the UI shows."""
        return "stale"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """Ask Dagster's own staleness."""
        return _answer(context, _resolver(context).get_status(context.key) != StaleStatus.FRESH)


class AncestorsFresh(dg.AutomationCondition):
    """True when nothing above the asset is stale.

    Staleness reaches one level: without this an asset with several parents would start before the work above it is
    done, and do that work within its own step; or again and again, where a parent failed.
    """

    @property
    def name(self) -> str:
        """What the UI shows."""
        return "ancestors_fresh"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """Ask Dagster's staleness of every ancestor."""
        resolver = _resolver(context)
        ancestors = context.asset_graph_view.asset_graph.get_ancestor_asset_keys(context.key)
        return _answer(context, all(resolver.get_status(key) == StaleStatus.FRESH for key in ancestors))


class WasCanceled(dg.AutomationCondition):
    """True when somebody terminated the asset's last run before it was done, which `execution_failed` does not see."""

    @property
    def name(self) -> str:
        """What the UI shows."""
        return "was_canceled"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """Look at the run that last planned to make the asset."""
        instance = context.asset_graph_view.instance
        planned = instance.event_log_storage.get_latest_planned_materialization_info(context.key)
        run = instance.get_run_by_id(planned.run_id) if planned else None
        if run is None or run.status != dg.DagsterRunStatus.CANCELED:
            return _answer(context, False)
        made = instance.get_latest_materialization_event(context.key)
        return _answer(context, made is None or made.run_id != run.run_id)


def when_stale() -> dg.AutomationCondition:
    """Make an asset as soon as it is stale and all above it is fresh.

    After a failure or a termination it waits until the data or the settings change: it neither repeats an error nor
    takes up again what somebody stopped.
    """
    condition: Any = dg.AutomationCondition
    stopped = condition.execution_failed() | WasCanceled()
    changed = condition.any_deps_match(condition.data_version_changed()) | condition.code_version_changed()
    return (
        IsStale()
        & AncestorsFresh()
        & (~stopped | changed.since_last_handled())
        & ~condition.any_deps_missing()
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
    )
