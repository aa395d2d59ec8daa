"""Fields of setting groups that several stages read without the rest of the group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer_core.config.groups import Precision
from trainer_core.config.reads import GroupPart
from trainer_core.families.storage.schemes import Compute, StoredModules


@dataclass(frozen=True)
class Threads(GroupPart):
    """CPU threads, of the group `hardware`."""

    threads: int


@dataclass(frozen=True)
class Resolution(GroupPart):
    """The side of a usual picture, of the group `bucket`."""

    resolution: int


@dataclass(frozen=True)
class TrainPrecision(GroupPart):
    """The precision of the denoiser, of the group `train`."""

    precision: Precision


@dataclass(frozen=True)
class BaseStorage(GroupPart):
    """How the base is held while it is trained on, of the group `memory`."""

    base: Literal["auto", "dense", "fp8", "int8", "nf4"]
    base_modules: StoredModules
    compute: Compute


@dataclass(frozen=True)
class CaptionDropout(GroupPart):
    """How often a caption is left out, of the group `caption`."""

    dropout: float
    dropout_every_n_epochs: int
