"""Every error a user can meet.

    LoraAssetsError
    ├── ConfigError          the YAML file or an override is wrong (exit code 2)
    ├── DatasetError         the dataset folder cannot be used (exit code 2)
    ├── ModelError           the base model cannot be used (exit code 2)
    ├── StoreError           the store cannot be read or written
    │   ├── IntegrityError   bytes on disk differ from what was published
    │   └── DamagedEntries   cached samples whose bytes are damaged: dropped, so that they are computed again
    ├── ExportError          a LoRA file cannot be written, read, or proven to hold what was trained
    ├── NonFiniteError       a NaN or an infinity, with the samples that gave it
    └── Interrupted          SIGINT, SIGTERM or Terminate: everything was saved first

A message names the file, field or sample, what was seen, what was wanted and how to mend it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer_core.types import Finding


class LoraAssetsError(Exception):
    """Base of all errors that are shown to a user without a traceback."""

    exit_code = 1
    findings: tuple[Finding, ...] = ()
    """What is wrong, one by one, for errors that know."""


class ConfigError(LoraAssetsError):
    """One or more settings are wrong; `findings` holds them all."""

    exit_code = 2

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(str(finding) for finding in findings))


class DatasetError(LoraAssetsError):
    """The dataset cannot be trained on as it is."""

    exit_code = 2


class ModelError(LoraAssetsError):
    """The base model is missing, incomplete or of another family; `field` is the setting that names it."""

    exit_code = 2

    def __init__(self, message: str, field: str = "model.path") -> None:
        self.field = field
        super().__init__(message)


class StoreError(LoraAssetsError):
    """The store cannot do what was asked."""


class IntegrityError(StoreError):
    """The bytes of `path` are not those that were published."""

    def __init__(self, path: Path, expected: str, actual: str, fix: str) -> None:
        self.path, self.expected, self.actual = path, expected, actual
        super().__init__(f"{path}: damaged: expected {expected}, found {actual}. {fix}")


class DamagedEntries(StoreError):
    """Cache entries failed verification. They have been dropped from the index and will be computed again."""

    def __init__(self, keys: Sequence[str], reasons: Sequence[str]) -> None:
        self.keys, self.reasons = tuple(keys), tuple(reasons)
        super().__init__("; ".join(reasons))


class ExportError(LoraAssetsError):
    """A LoRA file cannot be written, cannot be read, or does not hold what was trained."""


class StageFailed(LoraAssetsError):
    """A stage that nothing else needs failed; all others are done, and stay.

    `stage` names it, and `done` is what the run made of the others, in order.
    """

    def __init__(self, stage: str, message: str, done: Sequence[object]) -> None:
        self.stage, self.done = stage, tuple(done)
        super().__init__(f"{stage} failed: {message}")


class NonFiniteError(LoraAssetsError):
    """A NaN or infinity appeared; `samples` names where it came from, `micro_batch` when, in training."""

    def __init__(self, message: str, samples: Sequence[str], micro_batch: int | None = None) -> None:
        self.samples = tuple(samples)
        self.micro_batch = micro_batch
        super().__init__(message)


class Interrupted(LoraAssetsError):
    """The work was asked to stop and did so after saving its state."""

    exit_code = 130
