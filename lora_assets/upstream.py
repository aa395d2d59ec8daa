"""The one file of the asset layer that uses Dagster's internals: version tags, staleness, runs, automation ticks.

Dagster brings no parents along when one asset is selected, and what a step logs about other assets carries no
provenance. So a step first brings its parents up to date (the stages do that by themselves) and writes what happened to
them into its own run, with the tags that Dagster would have written: the `Journal`. tests/unit/dagster/test_upstream.py
holds all this against the installed Dagster.
"""

import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.asset_graph_view.asset_graph_view import AssetGraphView
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.automation_tick_evaluation_context import AutomationTickEvaluationContext
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
from dagster._core.definitions.sensor_definition import wrap_sensor_evaluation
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.execution.plan import active
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

RunInterrupted = DagsterExecutionInterruptedError
"""Raised in a step, it makes a terminated run CANCELED instead of failed. A BaseException."""

Metadata = Mapping[str, dg.MetadataValue]


POOL_SECONDS = 10.0
# Dagster lets a step that waits for its pool say so every five minutes: too seldom to tell it from a step that hangs.
active.CONCURRENCY_CLAIM_MESSAGE_INTERVAL = POOL_SECONDS


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


def any_was_made(instance: dg.DagsterInstance, keys: Sequence[dg.AssetKey]) -> bool:
    """Return whether any of some assets was ever materialized."""
    return any(record.asset_entry.last_materialization for record in instance.get_asset_records(keys))


def observation(key: dg.AssetKey, version: str) -> dg.AssetObservation:
    """Return the event that gives a source a data version."""
    return dg.AssetObservation(key, tags={DATA_VERSION_TAG: version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"})


def code_version_tags(code_version: str) -> dict[str, str]:
    """Return the tag that says by which code and settings a result was made."""
    return {CODE_VERSION_TAG: code_version}


def result_tags(version: str, code_version: str, inputs: Mapping[dg.AssetKey, str]) -> dict[str, str]:
    """Return the tags of a result of a data version, made by some code from inputs of some data versions."""
    own = {DATA_VERSION_TAG: version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
    versions = {get_input_data_version_tag(key): given for key, given in inputs.items()}
    # Dagster takes an input without a pointer for a new one.
    pointers = {get_input_event_pointer_tag(key): NULL_EVENT_POINTER for key in inputs}
    return own | code_version_tags(code_version) | versions | pointers


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

    def is_news(self, key: dg.AssetKey, deps: Sequence[dg.AssetKey], code: Mapping[str, str], version: str) -> bool:
        """Note what a parent is in this run; return whether Dagster has it recorded otherwise, or not at all.

        Args:
            key: the parent.
            deps: what it is made from.
            code: the tags that say by which code and settings: `code_version_tags`, and further ones of ours.
            version: its data version.
        """
        self._versions[key] = version
        tags = self._tags(deps, code, version)
        recorded, _ = _latest(self._context.instance, key, observed=False)
        return any(recorded.get(name) != value for name, value in tags.items())

    def materialized(
        self, key: dg.AssetKey, deps: Sequence[dg.AssetKey], code: Mapping[str, str], metadata: Metadata
    ) -> None:
        """Log that a parent was brought up to date, as its own step would have."""
        tags = self._tags(deps, code, self._versions[key]) | self._pointers(deps)
        self._context.log_event(dg.AssetMaterialization(key, metadata=metadata, tags=tags))

    def provenance(self, deps: Sequence[dg.AssetKey]) -> dict[str, str]:
        """Return the tags that say what the step's own result was made from.

        Dagster read the versions of the parents when the step began, which may have been before they were brought up to
        date; these tags replace those.
        """
        return self._inputs(deps) | self._pointers(deps)

    def _tags(self, deps: Sequence[dg.AssetKey], code: Mapping[str, str], version: str) -> dict[str, str]:
        own = {DATA_VERSION_TAG: version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
        return own | dict(code) | self._inputs(deps)

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


@dataclass(frozen=True)
class VersionRecord:
    """The event that gave an asset its data version."""

    storage_id: int
    run_id: str
    timestamp: float
    """When it was written, in seconds since 1970."""
    tags: Mapping[str, str]

    @property
    def version(self) -> str | None:
        """The data version."""
        return self.tags.get(DATA_VERSION_TAG)


def version_record(
    instance: dg.DagsterInstance, key: dg.AssetKey, observed: bool, before: int | None = None
) -> VersionRecord | None:
    """Return the newest event that gave an asset a data version, or the newest one before a storage id."""
    record = instance.get_latest_data_version_record(key, is_source=observed, before_cursor=before)
    if record is None:
        return None
    return VersionRecord(record.storage_id, record.run_id, record.timestamp, record.event_log_entry.tags or {})


def version_at(instance: dg.DagsterInstance, key: dg.AssetKey, observed: bool, moment: float) -> str | None:
    """Return the data version that an asset had at a moment, in seconds since 1970, or None."""
    record = version_record(instance, key, observed)
    while record is not None and record.timestamp > moment:
        record = version_record(instance, key, observed, before=record.storage_id)
    return record.version if record else None


def began(instance: dg.DagsterInstance, run_id: str, key: dg.AssetKey) -> float | None:
    """Return when a run began to make an asset, in seconds since 1970; None without a record.

    A step may wait minutes for its pool after the run has started. So it is when the asset's own step began, the last
    attempt of several; where it has none, when the run started; where it never started, when the run was created.
    """
    step_key, kinds = _op_name(key), {dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_RESTARTED}
    steps = [entry for entry in instance.all_logs(run_id, of_type=kinds) if entry.step_key == step_key]
    if steps:
        return steps[-1].timestamp
    record = instance.get_run_record_by_id(run_id)
    if record is None:
        return None
    return record.create_timestamp.timestamp() if record.start_time is None else record.start_time


def _op_name(key: dg.AssetKey) -> str:
    """Return what Dagster calls the op of an asset, and its step."""
    return "__".join(key.path)


def version_in_run(instance: dg.DagsterInstance, key: dg.AssetKey, run_id: str) -> str | None:
    """Return the last data version that a run gave an asset, or None."""
    kinds = {dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_OBSERVATION}
    versions = [entry.tags.get(DATA_VERSION_TAG) for entry in _events_of(instance, run_id, kinds) if entry.key == key]
    return next((version for version in reversed(versions) if version), None)


@dataclass(frozen=True)
class _AssetEvent:
    key: dg.AssetKey | None
    tags: Mapping[str, str]


def _events_of(instance: dg.DagsterInstance, run_id: str, kinds: set[dg.DagsterEventType]) -> list[_AssetEvent]:
    events = [record.get_dagster_event() for record in instance.all_logs(run_id, of_type=kinds)]
    payloads = [
        event.asset_observation_data.asset_observation
        if event.event_type == dg.DagsterEventType.ASSET_OBSERVATION
        else event.step_materialization_data.materialization
        for event in events
    ]
    return [_AssetEvent(payload.asset_key, payload.tags or {}) for payload in payloads]


@dataclass(frozen=True)
class Plan:
    """A run's intention to make an asset."""

    storage_id: int
    run: dg.DagsterRun


def latest_plan(instance: dg.DagsterInstance, key: dg.AssetKey) -> Plan | None:
    """Return the newest plan to make an asset, if its run is still on record."""
    planned = instance.event_log_storage.get_latest_planned_materialization_info(key)
    run = instance.get_run_by_id(planned.run_id) if planned else None
    return Plan(planned.storage_id, run) if planned and run else None


def op_tag_at_planning(instance: dg.DagsterInstance, run: dg.DagsterRun, key: dg.AssetKey, tag: str) -> str | None:
    """Return a tag that the asset's op had when a run was planned, from the snapshot that Dagster keeps of the job."""
    if run.job_snapshot_id is None or not instance.has_job_snapshot(run.job_snapshot_id):
        return None
    ops = instance.get_job_snapshot(run.job_snapshot_id).node_defs_snapshot.op_def_snaps
    return next((op.tags.get(tag) for op in ops if op.name == _op_name(key)), None)


def unfinished_runs(instance: dg.DagsterInstance) -> Mapping[str, frozenset[dg.AssetKey]]:
    """Return run id -> assets that it makes, of every run that has not ended, from the moment it is created."""
    runs = instance.get_runs(filters=dg.RunsFilter(statuses=list(NOT_FINISHED_STATUSES)))
    return {run.run_id: _assets_of(instance, run) for run in runs}


def _assets_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> frozenset[dg.AssetKey]:
    if run.asset_selection:
        return frozenset(run.asset_selection)
    if run.execution_plan_snapshot_id:
        return frozenset(instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id).asset_selection)
    planned = instance.get_asset_keys_for_run(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
    return frozenset(planned)


def latest_event_id(instance: dg.DagsterInstance) -> int:
    """Return the storage id of the newest event that concerns an asset."""
    return instance.event_log_storage.get_maximum_record_id() or 0


_ASSET_EVENTS = (
    dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_OBSERVATION,
)


def assets_with_events_after(
    instance: dg.DagsterInstance, storage_id: int, limit: int
) -> frozenset[dg.AssetKey] | None:
    """Return the assets that were planned, made or observed after an event; None at `limit` events or more."""
    keys: set[dg.AssetKey] = set()
    for kind in _ASSET_EVENTS:
        wanted = dg.EventRecordsFilter(kind, after_cursor=storage_id)
        records = instance.event_log_storage.get_event_records(wanted, limit=limit)
        if len(records) == limit:
            return None
        keys.update(record.asset_key for record in records if record.asset_key)
    return frozenset(keys)


class Staleness:
    """Dagster's own staleness, which shares what an evaluation of automation conditions has loaded already."""

    def __init__(self, view: AssetGraphView) -> None:
        self._resolver = CachingStaleStatusResolver(view.instance, view.asset_graph, view)

    def is_stale(self, key: dg.AssetKey) -> bool:
        """Return whether an asset was made, and its code or what it is made from changed since."""
        return self._resolver.get_status(key) == StaleStatus.STALE

    def is_fresh(self, key: dg.AssetKey) -> bool:
        """Return whether an asset was made, or is a source, and nothing changed since."""
        return self._resolver.get_status(key) == StaleStatus.FRESH


@dataclass(frozen=True)
class Evaluation:
    """The outcome of evaluating automation conditions."""

    requests: Sequence[dg.RunRequest]
    evaluations: Mapping[dg.AssetKey, Any]
    """Asset -> what the UI shows of its condition."""
    results: Mapping[dg.AssetKey, str]
    """Asset -> a hash of how its condition and each part of it came out."""


def evaluate_conditions(
    context: dg.SensorEvaluationContext,
    sensor: dg.AutomationConditionSensorDefinition,
    selection: dg.AssetSelection,
) -> Evaluation:
    """Evaluate the automation conditions of some assets, as Dagster's own sensor does for all of its assets.

    Without Dagster's cursor: our conditions have no memory, and reading and writing it took most of a tick's time.
    """
    tick = AutomationTickEvaluationContext(
        evaluation_id=0,
        instance=context.instance,
        asset_graph=asset_graph(context),
        cursor=AssetDaemonCursor.empty(),
        materialize_run_tags=sensor.run_tags,
        observe_run_tags={},
        auto_observe_asset_keys=set(),
        asset_selection=selection,
        emit_backfills=sensor.emit_backfills,
        default_condition=sensor.default_condition,
        logger=context.log,
    )
    requests, after, evaluations = tick.evaluate()
    results = {cursor.key: cursor.result_value_hash for cursor in after.previous_condition_cursors or ()}
    return Evaluation(requests, {each.key: each for each in evaluations if isinstance(each.key, dg.AssetKey)}, results)


def asset_graph(context: dg.SensorEvaluationContext) -> BaseAssetGraph:
    """Return the assets of the code location that the sensor belongs to."""
    assert context.repository_def is not None
    return context.repository_def.asset_graph


def automation_result(requests: Sequence[dg.RunRequest], cursor: str, evaluations: Iterable[Any]) -> dg.SensorResult:
    """Return what an automation sensor answers."""
    return dg.SensorResult(run_requests=requests, cursor=cursor, automation_condition_evaluations=list(evaluations))


def replace_evaluation(
    sensor: dg.SensorDefinition, evaluate: Callable[[dg.SensorEvaluationContext], dg.SensorResult]
) -> None:
    """Make a sensor answer by a function of ours; its type, and so its page in the UI, stays what it is."""
    sensor._raw_fn = evaluate
    sensor._evaluation_fn = wrap_sensor_evaluation(sensor.name, evaluate)
