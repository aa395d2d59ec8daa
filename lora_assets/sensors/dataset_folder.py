"""Looks at a project's folders and tells Dagster when their content changed. Launching is the automation's part.

A look costs names and stats alone. Only when two looks agree and nothing has changed for a while (somebody may still be
copying) is the content read, and only what is new of it.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import dagster as dg

from lora_assets import upstream
from lora_assets.assets.stage import SOURCES
from lora_assets.projects import ProjectAssets
from lora_assets.resources import HardwareResource, StoreResource
from trainer_core.config.project import Project
from trainer_core.data.discovery.discover import folder_fingerprint, newest_change
from trainer_core.errors import LoraAssetsError
from trainer_core.store.keys import digest

QUIET_SECONDS = 5.0


@dataclass(frozen=True)
class Cursor:
    """What the sensor remembers between looks."""

    seen: str = ""
    """What the folders looked like last time."""
    done: str = ""
    """What they looked like when Dagster was last told."""

    @classmethod
    def read(cls, text: str | None) -> "Cursor":
        """Read a cursor; one that cannot be read is an empty one, which costs a look."""
        try:
            return cls(**json.loads(text or "{}"))
        except (ValueError, TypeError):
            return cls()

    def write(self) -> str:
        """Return the cursor as text."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Look:
    """How folders are at one moment."""

    fingerprint: str
    newest: float
    """When something last changed, in seconds since 1970."""


def dataset_folder_sensor(project: ProjectAssets) -> dg.SensorDefinition:
    """Return the sensor of one project."""

    @dg.sensor(
        name=f"{project.group}_dataset_folder",
        description=f"Watches the dataset folders and the base model of {project.path.name}.",
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def sensor(
        context: dg.SensorEvaluationContext, store: StoreResource, hardware: HardwareResource
    ) -> dg.SensorResult:
        cursor, now = Cursor.read(context.cursor), look(project.project)
        if now.fingerprint == cursor.done:
            return _skip("nothing changed", Cursor(now.fingerprint, cursor.done))
        if now.fingerprint != cursor.seen or time.time() - now.newest < QUIET_SECONDS:
            return _skip("something is changing: waiting until it stays as it is", Cursor(now.fingerprint, cursor.done))
        try:
            events = _observations(context, project, store, hardware)
        except LoraAssetsError as error:
            return _skip(str(error), Cursor(now.fingerprint, cursor.done))
        told = Cursor(now.fingerprint, now.fingerprint)
        if not events:
            return _skip("files were touched, but their content is what it was", told)
        return dg.SensorResult(asset_events=events, cursor=told.write())

    return sensor


def look(project: Project) -> Look:
    """Look at dataset folders and base model without opening a file."""
    stats = list(_stats(project.model.path))
    newest = max((changed for *_, changed in stats), default=0) / 1e9
    fingerprint = digest([folder_fingerprint(project.datasets), stats])
    return Look(fingerprint, max(newest, newest_change(project.datasets)))


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
                found = os.stat(os.path.join(folder, name))
            except OSError:
                continue
            yield os.path.join(folder, name), found.st_size, found.st_mtime_ns, found.st_ctime_ns
