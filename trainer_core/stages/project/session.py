"""A project that is open for work: its settings, and what its stages may touch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trainer_core.config.native import with_native_resolution
from trainer_core.config.project import Project
from trainer_core.config.reads import read_settings
from trainer_core.data.epoch.run_length import RunLength
from trainer_core.families import get_family
from trainer_core.hardware.detect import detect_machine, select_profile
from trainer_core.hardware.profiles import Machine
from trainer_core.stages.project.base_model import OpenBase
from trainer_core.stages.project.dataset_scan import DatasetSettings, scan_datasets
from trainer_core.stages.project.workspace import Workspace
from trainer_core.store import Store
from trainer_core.types import Report, silent


@dataclass(frozen=True, eq=False)
class Session:
    """An open project. Stages never see it, only its workspace and the settings that they declare."""

    project: Project
    """Its settings; those that the base decides are numbers."""
    workspace: Workspace
    machine: Machine
    """What was detected."""

    @classmethod
    def open(cls, project: Project, home: Path, report: Report = silent) -> Session:
        """Open the store under `home` and choose the profile of the machine.

        Raises:
            ConfigError: unknown profile.
            ModelError: unknown family.
            StoreError: the store cannot be opened.
        """
        get_family(project.model.family)
        machine = detect_machine()
        profile = select_profile(project.hardware.profile, machine)
        store = Store.open(home / "store")
        base = OpenBase(project.model, store, profile.device)
        project = with_native_resolution(project, base.resolution)
        datasets = read_settings(DatasetSettings, project)
        workspace = Workspace(
            name=project.name,
            output_name=project.save.output_name or project.name,
            home=home,
            store=store,
            profile=profile,
            base=base,
            scan=lambda: scan_datasets(datasets, base.family.spec, store, report),
            request=lambda: project.model_dump(mode="json"),
            report=report,
        )
        return cls(project, workspace, machine)

    def close(self) -> None:
        """Close the store."""
        self.workspace.store.close()

    @cached_property
    def length(self) -> RunLength:
        """How long the run is: `train.steps`, or what `train.epochs` come to with these pictures.

        Raises:
            ConfigError: the dataset cannot be trained on.
        """
        return self.workspace.length(self.project.train, self.project.hardware.num_processes)
