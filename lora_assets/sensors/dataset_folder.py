"""Watches a project's folders and records in Dagster when their content changed. The automation sensor launches runs.

A listing of the folders reads names, sizes and times, and opens no file. Content is read only when two listings agree
and nothing has changed for a while, because somebody may still be copying, and then only of files that are new. The
folders of a project of which nothing was ever made are not listed: its first run records them by itself.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import dagster as dg

from lora_assets import upstream
from lora_assets.assets.stage import SOURCES
from lora_assets.projects import ProjectAssets
from lora_assets.resources import HardwareResource, StoreResource
from trainer_core.config.project import Project
from trainer_core.data.discovery.discover import folder_fingerprint, newest_change
from trainer_core.errors import LoraAssetsError
from trainer_core.stages import STAGES
from trainer_core.store.keys import digest

QUIET_SECONDS = 5.0
"""Files younger than this may still be written."""
INTERVAL_SECONDS = 5
PROJECTS_PER_SECOND = 4
"""With many projects each folder is listed less often, so that all sensors together cost the same."""
RESTS = 10
"""A sensor rests this many times as long as its last listing took: a large folder costs a tenth of a core at most."""


@dataclass(frozen=True)
class Cursor:
    """What the sensor remembers between ticks."""

    last: str = ""
    """Fingerprint of the last listing."""
    done: str = ""
    """Fingerprint of the listing whose content Dagster has on record."""
    made: bool = False
    """Whether any asset of the project was ever made."""
    rest_until: float = 0.0
    """No listing before this time, in seconds since 1970."""

    @classmethod
    def read(cls, text: str | None) -> "Cursor":
        """Read a cursor; one that cannot be read is an empty one, which costs a listing."""
        try:
            return cls(**json.loads(text or "{}"))
        except (ValueError, TypeError):
            return cls()

    def write(self) -> str:
        """Return the cursor as text."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Listing:
    """State of the folders at one moment."""

    fingerprint: str
    newest: float
    """When something last changed, in seconds since 1970."""


def dataset_folder_sensor(project: ProjectAssets, projects: int = 1) -> dg.SensorDefinition:
    """Return the sensor of one project.

    Args:
        project: the project.
        projects: how many projects have a sensor.
    """

    @dg.sensor(
        name=f"{project.group}_dataset_folder",
        description=f"Watches the dataset folders and the base model of {project.path.name}.",
        minimum_interval_seconds=max(INTERVAL_SECONDS, projects // PROJECTS_PER_SECOND),
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def sensor(
        context: dg.SensorEvaluationContext, store: StoreResource, hardware: HardwareResource
    ) -> dg.SensorResult:
        cursor = Cursor.read(context.cursor)
        if not cursor.made and not _any_was_made(context.instance, project):
            return _skip("nothing of this project was made yet: materialize an asset first", Cursor())
        now = time.time()
        if now < cursor.rest_until:
            return _skip(f"resting for {cursor.rest_until - now:.0f} s after a long listing", cursor)
        listing = list_files(project.project)
        took = max(0.0, time.time() - now)
        cursor = replace(cursor, made=True, rest_until=now + RESTS * took)
        return _answer(context, project, (store, hardware), listing, cursor)

    return sensor


def _answer(
    context: dg.SensorEvaluationContext,
    project: ProjectAssets,
    resources: tuple[StoreResource, HardwareResource],
    now: Listing,
    cursor: Cursor,
) -> dg.SensorResult:
    waiting = replace(cursor, last=now.fingerprint)
    if now.fingerprint == cursor.done:
        return _skip("nothing changed", waiting)
    if now.fingerprint != cursor.last or time.time() - now.newest < QUIET_SECONDS:
        return _skip("something is changing: waiting until it stays as it is", waiting)
    try:
        events = _observations(context, project, *resources)
    except LoraAssetsError as error:
        return _skip(str(error), waiting)
    recorded = replace(waiting, done=now.fingerprint)
    if not events:
        return _skip("files were touched, but their content is what it was", recorded)
    return dg.SensorResult(asset_events=events, cursor=recorded.write())


def _any_was_made(instance: dg.DagsterInstance, project: ProjectAssets) -> bool:
    return upstream.any_was_made(instance, [project.key(stage) for stage in STAGES])


def list_files(project: Project) -> Listing:
    """List the files of dataset folders and base model without opening one."""
    stats = list(_stats(project.model.path))
    newest = max((changed for *_, changed in stats), default=0) / 1e9
    fingerprint = digest([folder_fingerprint(project.datasets), stats])
    return Listing(fingerprint, max(newest, newest_change(project.datasets)))


def _observations(
    context: dg.SensorEvaluationContext, project: ProjectAssets, store: StoreResource, hardware: HardwareResource
) -> list[dg.AssetObservation]:
    """Return an observation of each source whose content is not what Dagster has on record."""
    with store.session(project.path, hardware.overrides()) as session:
        versions = {project.key(name): version(session) for name, version in SOURCES.items()}
    return [
        upstream.observation(key, version)
        for key, version in versions.items()
        if upstream.recorded_version(context.instance, key, observed=True) != version
    ]


def _skip(reason: str, cursor: Cursor) -> dg.SensorResult:
    return dg.SensorResult(skip_reason=reason, cursor=cursor.write())


def _stats(path: Path) -> Iterator[tuple[str, int, int, int]]:
    """Yield (path, size, mtime, ctime in ns) of a file, or of every file below a folder."""
    folders = sorted(os.walk(path)) if path.is_dir() else [(str(path.parent), [], [path.name])]
    for folder, _, names in folders:
        for name in sorted(names):
            try:
                stat = os.stat(os.path.join(folder, name))
            except OSError:
                continue
            yield os.path.join(folder, name), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
