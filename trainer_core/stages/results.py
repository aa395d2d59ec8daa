"""What stages report to one another: typed, with a version, stored as JSON in the metadata of a result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from trainer_core.types import JSON

_PREFIX = "lora_assets."
_JSON_IN_HEADER = ("settings", "step", "versions", "replaced_components")


@dataclass(frozen=True)
class Lineage:
    """Where a LoRA comes from."""

    family: str
    base_fingerprint: str
    """Data version of the whole base model, in hex."""
    dataset_data_version: str
    latents_data_version: str
    text_data_version: str
    settings: Mapping[str, Mapping[str, JSON]]
    """Group -> field -> value, of every setting that decided the weights or the files."""
    step: int
    """The step that the weights are of."""
    versions: Mapping[str, str]
    """Library -> version."""
    replaced_components: Mapping[str, str] = field(default_factory=dict[str, str])
    """Component of the base -> name of what was read in its place; not stored where nothing was."""

    def file_metadata(self) -> dict[str, str]:
        """Return the header entries of a file, `lora_assets.*`: text alone. Equal runs, equal text."""
        return {
            f"{_PREFIX}{name}": value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            for name, value in self.to_json().items()
        }

    def to_json(self) -> dict[str, JSON]:
        """Return the form in which `TrainingReport` is stored."""
        stored: dict[str, JSON] = {each.name: getattr(self, each.name) for each in fields(self)}
        if not self.replaced_components:
            del stored["replaced_components"]
        return stored

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Lineage:
        """Read the stored form; also that of version 1, which held the header entries of the file."""
        names = [each.name for each in fields(cls)]
        if f"{_PREFIX}family" not in stored:
            return cls(**{name: stored[name] for name in names if name in stored})
        header = {name: stored[f"{_PREFIX}{name}"] for name in names if f"{_PREFIX}{name}" in stored}
        parsed = {name: json.loads(header[name]) for name in _JSON_IN_HEADER if name in header}
        return cls(**{**header, **parsed})


@dataclass(frozen=True)
class TrainingReport:
    """What `lora_checkpoint` reports of a run and its files."""

    run: str
    """Name of the run's folder in the store."""
    steps: int
    """Optimizer steps of the whole run."""
    selected_step: int
    """The step that became the LoRA."""
    held_out_losses: Mapping[int, float]
    """Step -> mean held-out loss; step 0 is the base."""
    steps_per_second: float | None
    """None where the weights were trained before, and only written to files again."""
    final_loss: float | None
    peak_memory_mib: float
    weights_sha256: str
    lineage: Lineage
    rendered: str
    """The file of the result that pictures are rendered with."""
    proof: tuple[Mapping[str, JSON], ...]
    """What was proven of each file by reading it back: `FileProof.as_dict`."""
    rank: int
    alpha: float
    trained_samples: int
    saved: tuple[Mapping[str, JSON], ...] | None = None
    """For each published step its `step`, `held_out_loss` and `weights_sha256`; None if none was asked for."""
    outputs: Mapping[str, str] = field(default_factory=dict[str, str])
    """Further file of the result -> its name in `outputs/NAME/`."""

    VERSION = 2
    """1 held the lineage as the header entries of a file, with JSON in text."""

    def to_json(self) -> dict[str, JSON]:
        """Return the form that is stored in the result's metadata."""
        stored: dict[str, JSON] = {each.name: getattr(self, each.name) for each in fields(self)}
        stored |= {"version": self.VERSION, "lineage": self.lineage.to_json(), "proof": [*map(dict, self.proof)]}
        stored["held_out_losses"] = {str(step): loss for step, loss in self.held_out_losses.items()}
        del stored["saved"], stored["outputs"]
        if self.saved is None:
            return stored
        return stored | {"saved": [*map(dict, self.saved)], "outputs": dict(self.outputs)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> TrainingReport:
        """Read the stored form, of this version or of version 1."""
        values = {each.name: stored[each.name] for each in fields(cls) if each.name in stored}
        values["lineage"] = Lineage.from_json(stored["lineage"])
        values["held_out_losses"] = {int(step): loss for step, loss in stored["held_out_losses"].items()}
        values["proof"] = tuple(stored["proof"])
        if "saved" in stored:
            values["saved"] = tuple(stored["saved"])
        return cls(**values)
