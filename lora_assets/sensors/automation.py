"""Launches what is stale, level by level, by the condition on each asset: one run a project.

Evaluating a condition costs several queries an asset, so a tick evaluates only projects to which something happened:
an event of one of their assets, or the beginning or the end of one of their runs. That loses nothing, because the
conditions depend on these and on the loaded code alone (`conditions.py`). Projects that the last tick requested runs
of are evaluated again, so that a request of which no run came is not lost.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import dagster as dg

from lora_assets import upstream
from lora_assets.projects import PROJECT_TAG
from trainer_core.store.keys import digest

NAME = "retrain_when_stale"
_EVENTS_PER_TICK = 500
"""With more events of one kind since the last tick, every project is evaluated."""


@dataclass(frozen=True)
class Cursor:
    """What the sensor remembers between ticks."""

    definitions: str = ""
    """Digest of the loaded assets and their code versions."""
    event: int = 0
    """Storage id of the newest event of an asset."""
    unfinished: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """Run id -> groups, of every run that had not ended."""
    requested: Sequence[str] = ()
    """Groups of which the last tick requested runs."""
    results: Mapping[str, str] = field(default_factory=dict[str, str])
    """Group -> digest of how the conditions of its assets came out when they were last evaluated."""

    @classmethod
    def read(cls, text: str | None) -> "Cursor":
        """Read a cursor; one of another format is an empty one, and every project is evaluated."""
        try:
            return cls(**json.loads(text or "{}"))
        except (ValueError, TypeError):
            return cls()

    def write(self) -> str:
        """Return the cursor as text."""
        return json.dumps(asdict(self))


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """Return the sensor that evaluates the assets' automation conditions."""
    with upstream.without_beta_warnings():
        sensor = dg.AutomationConditionSensorDefinition(
            NAME,
            target=dg.AssetSelection.all(),
            description="Makes again what was made before and became stale, once all above it is fresh. One run a "
            "project. Starts nothing that was never made, and nothing that was stopped, until something changes.",
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=5,
            # The conditions are our own, so our code must evaluate them.
            use_user_code_server=True,
        )
    # Dagster's own evaluation joins the assets of all projects into one run, in which one failure or termination stops
    # them all; it refuses more than 500 assets, and evaluates each of them at every tick.
    upstream.replace_evaluation(sensor, lambda context: _evaluate(context, sensor))
    return sensor


def _evaluate(context: dg.SensorEvaluationContext, sensor: dg.AutomationConditionSensorDefinition) -> dg.SensorResult:
    before, graph = Cursor.read(context.cursor), upstream.asset_graph(context)
    now = replace(before, **_state(context.instance, graph), requested=())
    groups = _changed_groups(context.instance, graph, before, now)
    if not groups:
        return dg.SensorResult(skip_reason="nothing happened since the last tick", cursor=now.write())
    selection = dg.AssetSelection.groups(*sorted(groups))
    outcome = upstream.evaluate_conditions(context, sensor, selection)
    requests = [each for request in outcome.requests for each in split_by_project(request, graph)]
    requested = _groups(graph, (key for request in requests for key in request.asset_selection or ()))
    results = _results(graph, outcome)
    # Dagster keeps what it is given for the UI: the same outcome is not kept again.
    news = {group for group in groups if before.results.get(group) != results.get(group) or group in requested}
    shown = (each for key, each in outcome.evaluations.items() if graph.get(key).group_name in news)
    now = replace(now, requested=requested, results={**before.results, **results})
    return upstream.automation_result(requests, now.write(), shown)


def _results(graph: upstream.BaseAssetGraph, outcome: upstream.Evaluation) -> dict[str, str]:
    """Return group -> digest of how the conditions of its assets came out."""
    hashes: dict[str, list[str]] = {}
    for key in sorted(outcome.results):
        hashes.setdefault(graph.get(key).group_name, []).append(outcome.results[key])
    return {group: digest(own)[:8] for group, own in hashes.items()}


def split_by_project(request: dg.RunRequest, graph: upstream.BaseAssetGraph) -> list[dg.RunRequest]:
    """Part a request into one for each project, tagged with the project's name."""
    assets = request.asset_selection or []
    checks = request.asset_check_keys
    requests: list[dg.RunRequest] = []
    for group in sorted({graph.get(key).group_name for key in assets}):
        own = [key for key in assets if graph.get(key).group_name == group]
        own_checks = None if checks is None else [check for check in checks if check.asset_key in set(own)]
        project = graph.get(own[0]).tags.get(PROJECT_TAG, group)
        tags = {**request.tags, PROJECT_TAG: project}
        requests.append(dg.RunRequest(asset_selection=own, asset_check_keys=own_checks, tags=tags))
    return requests


def _state(instance: dg.DagsterInstance, graph: upstream.BaseAssetGraph) -> dict[str, Any]:
    """Return what conditions depend on; events that arrive later belong to the next tick."""
    event = upstream.latest_event_id(instance)
    unfinished = {run: _groups(graph, keys) for run, keys in upstream.unfinished_runs(instance).items()}
    return {"definitions": _definitions(graph), "event": event, "unfinished": unfinished}


@lru_cache(maxsize=2)
def _definitions(graph: upstream.BaseAssetGraph) -> str:
    keys = graph.get_all_asset_keys()
    return digest(sorted([key.to_user_string(), graph.get(key).code_version or ""] for key in keys))


def _changed_groups(
    instance: dg.DagsterInstance, graph: upstream.BaseAssetGraph, before: Cursor, now: Cursor
) -> set[str]:
    """Return the groups to which something happened between two ticks."""
    everything = {graph.get(key).group_name for key in graph.materializable_asset_keys}
    if now.definitions != before.definitions or now.event < before.event:
        return everything
    runs = {**before.unfinished, **now.unfinished}
    changed = {group for run in before.unfinished.keys() ^ now.unfinished.keys() for group in runs[run]}
    changed.update(before.requested)
    if now.event > before.event:
        keys = upstream.assets_with_events_after(instance, before.event, _EVENTS_PER_TICK)
        if keys is None:
            return everything
        changed.update(_groups(graph, keys))
    return changed & everything


def _groups(graph: upstream.BaseAssetGraph, keys: Iterable[dg.AssetKey]) -> list[str]:
    return sorted({graph.get(key).group_name for key in keys if graph.has(key)})
