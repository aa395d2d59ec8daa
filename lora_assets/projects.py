"""Finds projects: every `configs/NAME.yaml` is one group of assets.

`default.yaml` gives `lora_checkpoint` and its like in the group `default`; any other `NAME.yaml` gives
`NAME/lora_checkpoint` in the group NAME. A file that cannot be read must not take the others with it: its group then
has one asset, `lora_checkpoint`, which shows the error and fails with it when it is run.
"""

import logging
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from trainer_core.config.load import load_project
from trainer_core.config.project import Project
from trainer_core.errors import ConfigError
from trainer_core.store.keys import digest

CONFIGS_VARIABLE = "LORA_ASSETS_CONFIGS"
DEFAULT = "default"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProjectAssets:
    """A project as Dagster sees it."""

    path: Path
    """The YAML file. Runs read it again, so that they see it as it is then."""
    group: str
    """Group of its assets: the file's name, in the letters that Dagster allows."""
    project: Project
    """The settings when the code was loaded: what code versions are made from."""

    def key(self, name: str) -> dg.AssetKey:
        """Return the key of one of its assets."""
        return asset_key(self.group, name)


@dataclass(frozen=True)
class BrokenProject:
    """A YAML file that is no project."""

    path: Path
    group: str
    error: str
    """Everything that is wrong with it."""


def configs_folder() -> Path:
    """Return `LORA_ASSETS_CONFIGS`, or else `configs` beside this package, or else in the current folder."""
    chosen = os.environ.get(CONFIGS_VARIABLE, "")
    if chosen:
        return Path(chosen).expanduser().absolute()
    beside = Path(__file__).resolve().parents[1] / "configs"
    return beside if beside.is_dir() else Path.cwd() / "configs"


def discover_projects(folder: Path) -> Sequence[ProjectAssets | BrokenProject]:
    """Read every YAML file of a folder, `default.yaml` first, the others by name."""
    files = sorted(folder.glob("*.yaml"), key=lambda path: (path.stem != DEFAULT, path.stem))
    if not files:
        log.warning("%s: no *.yaml file, so there are no assets. Set %s to another folder.", folder, CONFIGS_VARIABLE)
    found: list[ProjectAssets | BrokenProject] = []
    for path in files:
        found.append(_own_name(_read(path, _group(path.stem, {project.group for project in found})), found))
    return found


def _own_name(
    project: ProjectAssets | BrokenProject, others: Sequence[ProjectAssets | BrokenProject]
) -> ProjectAssets | BrokenProject:
    """Refuse a second project of one name: both would write to one outputs folder."""
    for other in others:
        if isinstance(project, ProjectAssets) and isinstance(other, ProjectAssets):
            name = project.project.name
            if name == other.project.name:
                error = f"{project.path}: name: {name!r} is the name of {other.path} too. Give it a name of its own."
                log.warning("%s", error)
                return BrokenProject(project.path, project.group, error)
    return project


def asset_key(group: str, name: str) -> dg.AssetKey:
    """Return `name` for the default project, `GROUP/name` for others."""
    return dg.AssetKey([name] if group == DEFAULT else [group, name])


def _read(path: Path, group: str) -> ProjectAssets | BrokenProject:
    try:
        return ProjectAssets(path, group, load_project(path))
    except ConfigError as error:
        log.warning("%s is not a valid project; the others are not affected:\n%s", path, error)
        return BrokenProject(path, group, str(error))


def _group(stem: str, taken: Collection[str]) -> str:
    """Name a group: letters, digits and underscores. Two files that would share a name keep apart."""
    name = re.sub(r"\W", "_", stem, flags=re.ASCII)
    return f"{name}_{digest(stem)[:6]}" if name in taken or (name == DEFAULT and stem != DEFAULT) else name
