"""The manifest: every picture of a project, as a sample or as an exclusion with its reason."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from trainer_core.data.discovery.discovery_types import Exclusion
from trainer_core.data.sample_identity import version_row
from trainer_core.types import Finding, Sample


@dataclass(frozen=True)
class Manifest:
    """All pictures of a project. `samples` and `excluded` are ordered by id, and together they are `total`.

    A picture that is trained at several resolutions counts once for each.
    """

    samples: tuple[Sample, ...]
    excluded: tuple[Exclusion, ...]
    findings: tuple[Finding, ...]
    total: int

    def __post_init__(self) -> None:
        """Check that no picture was lost on the way."""
        assert self.total == len(self.samples) + len(self.excluded)

    @cached_property
    def data_version(self) -> str:
        """SHA-256 hex of what the samples mean (`version_row`): equal if the same training would see the same data."""
        text = json.dumps([version_row(sample) for sample in self.samples], ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that forbid training."""
        return tuple(finding for finding in self.findings if finding.level == "error")
