"""Finds projects: every `configs/NAME.yaml` is one group of assets.

`default.yaml` gives `lora_checkpoint` and the other assets, in a group called what the project is (`demo`); any other
`NAME.yaml` gives `NAME/lora_checkpoint` in the group NAME. A file that cannot be read must not take the others with it:
its group then has one asset, `lora_checkpoint`, which shows the error and fails with it when it is run.
"""

import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg

from trainer_core.config.load import load_project
from trainer_core.config.project import Project
from trainer_core.errors import ConfigError
from trainer_core.store.keys import digest

CONFIGS_VARIABLE = "LORA_ASSETS_CONFIGS"
DEFAULT = "default"
"""Stem of the file whose assets have no prefix."""
PROJECT_TAG = "lora-assets/project"
"""Tag of assets and runs: the project's name."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProjectAssets:
    """A project as Dagster sees it."""

    path: Path
    """The YAML file. Runs read it again, so that they see it as it is then."""
    group: str
    """Group of its assets, in the letters that Dagster allows: the file's name, or `default.yaml`'s project's name."""
    project: Project
    """The settings when the code was loaded: what code versions are made from."""

    def key(self, name: str) -> dg.AssetKey:
        """Return the key of one of its assets."""
        return asset_key(self.path, self.group, name)

    def with_overrides(self, overrides: Sequence[str]) -> "ProjectAssets":
        """Return the project with other settings for one run.

        Raises:
            ConfigError: an override names no setting, or gives it a value that it cannot have.
        """
        return replace(self, project=load_project(self.path, overrides)) if overrides else self

    @property
    def tags(self) -> Mapping[str, str]:
        """Tags of its assets, to search and filter by."""
        return {PROJECT_TAG: tag_value(self.project.name), "lora-assets/family": tag_value(self.project.model.family)}


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
    projects: list[ProjectAssets | BrokenProject] = []
    for path in files:
        project = _read(path, {project.group for project in projects})
        projects.append(_own_name(project, projects))
    return projects


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


def asset_key(path: Path, group: str, name: str) -> dg.AssetKey:
    """Return `name` for the project of `default.yaml`, `GROUP/name` for others."""
    return dg.AssetKey([name] if path.stem == DEFAULT else [group, name])


def tag_value(text: str) -> str:
    """Return a text in the letters that Dagster allows in a tag's value."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:63]


def _read(path: Path, taken: Collection[str]) -> ProjectAssets | BrokenProject:
    try:
        project = load_project(path)
    except ConfigError as error:
        log.warning("%s is not a valid project; the others are not affected:\n%s", path, error)
        return BrokenProject(path, _group(path.stem, taken), str(error))
    return ProjectAssets(path, _group(project.name if path.stem == DEFAULT else path.stem, taken), project)


def _group(name: str, taken: Collection[str]) -> str:
    """Name a group: letters, digits and underscores. Two projects that would share a name keep apart."""
    group = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"{group}_{digest(name)[:6]}" if group in taken else group
