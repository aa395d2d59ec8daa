"""The report of `lora-assets import`: one entry for each key, and findings that need a look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trainer_core.importers.core.engine import Entry
from trainer_core.types import JSON, Finding

STATUSES = ("mapped", "changed", "unsupported", "unknown", "irrelevant")
"""In the order of the report."""


@dataclass(frozen=True)
class ImportReport:
    """The result of an import."""

    tool: str
    detected_by: str
    """The keys that gave the tool away, or `--from`."""
    family: str
    family_detected_by: str
    source: str
    output: str
    yaml: str
    entries: Sequence[Entry]
    findings: Sequence[Finding]

    @property
    def counts(self) -> dict[str, int]:
        """How many keys came to what; defaults of the tool are not counted."""
        found = Counter(entry.status for entry in self.entries if not entry.default)
        return {status: found.get(status, 0) for status in STATUSES}

    def as_dict(self) -> dict[str, JSON]:
        """The stable JSON form of `import --json`."""
        return {
            "tool": self.tool,
            "told_by": self.detected_by,
            "family": self.family,
            "family_told_by": self.family_detected_by,
            "source": self.source,
            "output": self.output,
            "counts": self.counts,
            "entries": [entry.as_dict() for entry in self.sorted()],
            "findings": [finding.as_dict() for finding in self.findings],
        }

    def sorted(self) -> list[Entry]:
        """Order entries by what became of them; within that as the source has them, its defaults last."""
        return sorted(self.entries, key=lambda entry: (STATUSES.index(entry.status), entry.default))
