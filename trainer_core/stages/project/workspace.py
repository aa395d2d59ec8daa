"""What a stage may touch beside its declared settings: the store, the base model, the pictures, the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from trainer_core.config.groups import TrainConfig
from trainer_core.data.epoch.run_length import RunLength, run_length
from trainer_core.data.manifest import Manifest
from trainer_core.errors import ConfigError
from trainer_core.families.family import Family
from trainer_core.families.model_source import ModelSource
from trainer_core.families.spec import PrecisionName
from trainer_core.hardware.profiles import HardwareProfile, resolve_precision
from trainer_core.stages.project.base_model import OpenBase
from trainer_core.stages.project.dataset_scan import ScannedDataset
from trainer_core.store import Store
from trainer_core.types import JSON, Report, silent


@dataclass(frozen=True, eq=False)
class Workspace:
    """One project as stages see it. It has no settings: those come through what a stage declares.

    Files are looked at once, when they are first asked for: a folder that changes during a run counts for the next run.
    """

    name: str
    """Name of the project: of its refs in the store and of its folder of outputs. Decides no result."""
    output_name: str
    """What published files are called. Decides no result."""
    home: Path
    """Folder of store and outputs."""
    store: Store
    profile: HardwareProfile
    base: OpenBase
    scan: Callable[[], ScannedDataset] = field(repr=False)
    """Looks at the dataset folders."""
    request: Callable[[], JSON] = field(repr=False)
    """What another process needs to open the same project."""
    report: Report = silent
    """Called with how far the work is."""
    _lengths: dict[tuple[str, int], RunLength] = field(default_factory=dict[tuple[str, int], RunLength], repr=False)

    @property
    def outputs(self) -> Path:
        """The folder of the files that people want."""
        return self.home / "outputs" / self.name

    @property
    def source(self) -> ModelSource:
        """The base model's files.

        Raises:
            ModelError: missing, incomplete or of another family.
        """
        return self.base.source

    @property
    def family(self) -> Family:
        """The family, as the variant that the base model is; its main model while there is no base to ask."""
        return self.base.family

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """SHA-256 of each component of the base model, by content."""
        return self.base.fingerprints

    def weights(self, components: Sequence[str]) -> dict[str, str]:
        """Return the fingerprints of some components."""
        return {name: self.fingerprints[name] for name in components}

    @cached_property
    def scanned(self) -> ScannedDataset:
        """The dataset folders as they are now."""
        return self.scan()

    @property
    def manifest(self) -> Manifest:
        """The samples that can be trained, and every exclusion with its reason.

        Raises:
            ConfigError: the dataset cannot be trained on; it holds every reason.
        """
        if errors := self.scanned.manifest.errors:
            raise ConfigError(errors)
        return self.scanned.manifest

    def length(self, train: TrainConfig, processes: int) -> RunLength:
        """Return how long a run with these settings is over the project's pictures.

        Raises:
            ConfigError: the dataset cannot be trained on.
        """
        asked = train.model_dump_json(), processes
        if asked not in self._lengths:
            self._lengths[asked] = run_length(train, processes, self.manifest.samples)
        return self._lengths[asked]

    def precision(self, use: str, asked: str) -> PrecisionName:
        """Return the precision in force.

        Args:
            use: `vae`, `text` or `train`.
            asked: the setting; `auto` takes what suits machine and model.
        """
        if use == "vae":
            return resolve_precision(asked, self.profile.encode_precision, self.family.spec.latents.precisions)
        preferred = self.profile.encode_precision if use == "text" else self.profile.train_precision
        return resolve_precision(asked, preferred, ("bf16", "fp32", "fp16"))
