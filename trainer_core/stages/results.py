"""What stages report to one another: typed, with a version, stored as JSON in the metadata of a result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from statistics import fmean
from typing import Any

from trainer_core.confidence import mean_score_interval
from trainer_core.types import JSON

_PREFIX = "lora_assets."
_JSON_IN_HEADER = ("settings", "step", "versions", "replaced_components")
_BASE, _LORA = "_base", "_lora"
"""Endings of a figure's two stored values."""


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
    base_storage: str = ""
    """How the base was held, such as `nf4 (blocks+modulation)`; not stored where it was dense."""

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
        if not self.base_storage:
            del stored["base_storage"]
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
    uses: tuple[str, ...] = ()
    """`stage/key` of objects that are kept as long as this result; not stored where there are none."""
    rungs: tuple[Mapping[str, JSON], ...] = ()
    """What the run did each time that memory ran out, in order: `Rung.as_dict`; not stored where it never did."""

    VERSION = 2
    """1 held the lineage as the header entries of a file, with JSON in text."""

    def to_json(self) -> dict[str, JSON]:
        """Return the form that is stored in the result's metadata."""
        stored: dict[str, JSON] = {each.name: getattr(self, each.name) for each in fields(self)}
        stored |= {"version": self.VERSION, "lineage": self.lineage.to_json(), "proof": [*map(dict, self.proof)]}
        stored["held_out_losses"] = {str(step): loss for step, loss in self.held_out_losses.items()}
        del stored["saved"], stored["outputs"], stored["uses"], stored["rungs"]
        if self.uses:
            stored["uses"] = list(self.uses)
        if self.rungs:
            stored["rungs"] = [*map(dict, self.rungs)]
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
        if "uses" in stored:
            values["uses"] = tuple(stored["uses"])
        values["rungs"] = tuple(stored.get("rungs", ()))
        if "saved" in stored:
            values["saved"] = tuple(stored["saved"])
        return cls(**values)


@dataclass(frozen=True)
class BaseAndLora:
    """A figure, measured of the base and of the base with the LoRA."""

    base: float
    lora: float


@dataclass(frozen=True)
class PictureScores:
    """Scores of the same pictures, drawn by the base and with the LoRA: in the order of prompts, then of seeds."""

    base: tuple[float, ...]
    lora: tuple[float, ...]


@dataclass(frozen=True)
class ChampionLoss:
    """The held-out loss of the project's champion, measured beside a candidate's."""

    weights_sha256: str
    held_out_loss: float
    by_sample: Mapping[str, float] = field(default_factory=dict[str, float])
    """Held-out sample -> its loss; empty in results of version 2 and before."""


@dataclass(frozen=True)
class ExamFigures:
    """What `metrics` reports of a finished LoRA."""

    held_out_samples: int
    weights_sha256: str
    """Of the LoRA that was measured."""
    exam: str = ""
    """Digest of what held-out losses must share to be compared."""
    figures: Mapping[str, BaseAndLora] = field(default_factory=dict[str, BaseAndLora])
    """`held_out_loss`, then what the judge and CLIP gave: `concept_score`, `following`, `diversity`, `clip_..`."""
    by_sample: Mapping[str, BaseAndLora] = field(default_factory=dict[str, BaseAndLora])
    """Held-out sample -> its losses."""
    champion: ChampionLoss | None = None
    """None where the champion's loss is known from an equal examination, or there is no champion."""
    dense_base_loss: float | None = None
    """Held-out loss of the base in full precision, where the LoRA was trained on a quantised one and it was measured.
    """
    picture_exam: str = ""
    """Digest of what concept scores must share to be compared, picture by picture; empty where none was given."""
    scores: Mapping[str, PictureScores] = field(default_factory=dict[str, PictureScores])
    """`concept_score` and `following` -> what the judge gave to each picture, in [0, 1]."""

    VERSION = 3
    """1 had neither `exam_pictures` nor `concept_score_interval`; 2 neither `picture_exam` nor `scores`."""

    @property
    def exam_pictures(self) -> int:
        """Return the number of pictures that the concept score rests on; 0 if it was not measured."""
        return self.pictures("concept_score")

    @property
    def concept_score_interval(self) -> tuple[float, float] | None:
        """Return the interval of 95 % around the LoRA's concept score; None if it was not measured."""
        return self.interval("concept_score")

    def pictures(self, name: str) -> int:
        """Return the number of pictures that a score rests on; 0 if it was not measured, or is no score of a judge."""
        return len(self.scores[name].lora) if name in self.scores else 0

    def interval(self, name: str) -> tuple[float, float] | None:
        """Return the interval of 95 % around the LoRA's score; None where `pictures` is 0."""
        if not self.pictures(name):
            return None
        return mean_score_interval(fmean(self.scores[name].lora), self.pictures(name))

    def of_base(self, name: str) -> float | None:
        """Return the base's figure; None if it was not measured."""
        return self.figures[name].base if name in self.figures else None

    def of_lora(self, name: str) -> float | None:
        """Return the LoRA's figure; None if it was not measured."""
        return self.figures[name].lora if name in self.figures else None

    def meaning(self) -> dict[str, JSON]:
        """Return what the result means, the part of its data version: the measured values and of what they are."""
        meaning: dict[str, JSON] = {"held_out_samples": self.held_out_samples, "weights_sha256": self.weights_sha256}
        for name, both in self.figures.items():
            meaning |= {f"{name}{_BASE}": both.base, f"{name}{_LORA}": both.lora}
        if (loss := self.figures.get("held_out_loss")) is not None:
            meaning["held_out_loss_change"] = loss.lora / loss.base - 1
            meaning["by_sample"] = {name: asdict(both) for name, both in self.by_sample.items()}
        if self.dense_base_loss is not None:
            meaning["dense_held_out_loss"] = self.dense_base_loss
        if self.scores:
            meaning["scores"] = {
                name: {"base": list(both.base), "lora": list(both.lora)} for name, both in self.scores.items()
            }
        return meaning

    def to_json(self) -> dict[str, JSON]:
        """Return the content of metrics.json, which is also the result's metadata."""
        stored = self.meaning() | {"version": self.VERSION, "exam": self.exam, "picture_exam": self.picture_exam}
        interval = self.concept_score_interval
        stored["exam_pictures"] = self.exam_pictures
        stored["concept_score_interval"] = None if interval is None else list(interval)
        return stored | ({"champion": asdict(self.champion)} if self.champion else {})

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ExamFigures:
        """Read the stored form, of this version or of an earlier one."""
        names = [name.removesuffix(_BASE) for name in stored if name.endswith(_BASE)]
        champion, scores = stored.get("champion"), stored.get("scores", {})
        return cls(
            held_out_samples=stored["held_out_samples"],
            weights_sha256=stored.get("weights_sha256", ""),
            exam=stored.get("exam", ""),
            figures={name: BaseAndLora(stored[name + _BASE], stored[name + _LORA]) for name in names},
            by_sample={name: BaseAndLora(**both) for name, both in stored.get("by_sample", {}).items()},
            champion=None if champion is None else ChampionLoss(**champion),
            dense_base_loss=stored.get("dense_held_out_loss"),
            picture_exam=stored.get("picture_exam", ""),
            scores={name: PictureScores(tuple(both["base"]), tuple(both["lora"])) for name, both in scores.items()},
        )
