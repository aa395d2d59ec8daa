"""What the choices of a first project depend on: answers, machine, base model and pictures, all plain figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import Literal, get_args

from trainer_core.memory.question import Measured
from trainer_core.types import Sample

Goal = Literal["character", "object", "style"]
Effort = Literal["conservative", "balanced", "aggressive"]
GOALS: tuple[Goal, ...] = get_args(Goal)
EFFORTS: tuple[Effort, ...] = get_args(Effort)
_TAGS, _TAG_WORDS = 4, 2.5
"""Captions of at least so many parts between commas, of so few words each on average, are tags."""


@dataclass(frozen=True)
class Answers:
    """What only the user knows."""

    name: str
    dataset: Path
    base: str
    family: str
    goal: Goal = "character"
    effort: Effort = "balanced"
    trigger_word: str = ""
    regularisation: Path | None = None


@dataclass(frozen=True)
class MachineFacts:
    """What the work runs on."""

    device: Literal["cpu", "cuda"]
    memory_gib: float
    """Of the GPU, or of the machine where there is none or where both share it."""
    ram_gib: float
    disk_gib: float
    """Free where the store will be."""
    cores: int
    unified: bool = False
    """Whether GPU and CPU share the memory."""


@dataclass(frozen=True)
class BaseFacts:
    """What the base model is."""

    title: str
    prediction: Literal["diffusion", "flow"]
    weights_gib: float
    """Of the denoiser, in 16 bits."""
    side: int
    """Pixels that it was trained at."""
    latent_bytes: float
    """Of one cached latent for each pixel of its picture."""
    measured: Measured | None = None
    """What a training step at `side` needs; None where it was not measured."""


@dataclass(frozen=True)
class DatasetFacts:
    """What the pictures are."""

    pictures: int
    median_side: int
    """Square root of the median area, in pixels."""
    small: float
    """Share of the pictures with less than half the area that the base was trained at."""
    captioned: float
    """Share of the pictures that have a caption."""
    tags: bool
    """Whether captions are lists of tags."""
    captions: tuple[str, ...] = ()
    """Some of them, all different."""


@dataclass(frozen=True)
class Situation:
    """All of it."""

    answers: Answers
    machine: MachineFacts
    base: BaseFacts
    dataset: DatasetFacts


def summarise_pictures(samples: Sequence[Sample], side: int) -> DatasetFacts:
    """Return figures of scanned pictures, for a base that was trained at `side` pixels."""
    areas = [prod(sample.geometry.original) for sample in samples]
    captions = [sample.caption for sample in samples if sample.caption]
    return DatasetFacts(
        pictures=len(samples),
        median_side=round(sqrt(statistics.median(areas))),
        small=sum(area < side**2 / 2 for area in areas) / len(areas),
        captioned=len(captions) / len(samples),
        tags=are_tags(captions),
        captions=tuple(dict.fromkeys(captions))[:4],
    )


def are_tags(captions: Sequence[str]) -> bool:
    """Tell lists of tags from sentences: many parts between commas, of few words each."""
    parts = [part.split() for caption in captions for part in caption.split(",")]
    if not captions or len(parts) < _TAGS * len(captions):
        return False
    return statistics.mean(len(words) for words in parts) <= _TAG_WORDS
