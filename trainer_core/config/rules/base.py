"""What a rule is given and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from trainer_core.config.project import Project
from trainer_core.types import Finding


@dataclass(frozen=True)
class DataFacts:
    """What the pictures say. Regularisation pictures and repeats count."""

    images: int
    """Pictures that are trained."""
    draws: int
    """Pictures seen in one epoch."""
    steps_per_epoch: float
    """Optimizer steps in which all of them are seen once."""
    steps: int
    """Optimizer steps of the run."""


@dataclass(frozen=True)
class Facts:
    """What rules know beside the settings: the family's data, the machine and, once they were looked at, the pictures.

    The defaults are those of a diffusion family that can do everything.
    """

    prediction: Literal["diffusion", "flow"] = "diffusion"
    title: str = "the family"
    base_prediction: str = ""
    """What the base's scheduler says that the denoiser predicts; empty where there is no base to ask."""
    trainable_text_encoders: tuple[str, ...] = ("text_encoder",)
    reads_clip_tokens: bool = True
    """Whether captions of more than 75 CLIP tokens can be read in pieces."""
    skips_clip_layers: bool = True
    chooses_text_length: bool = True
    overflows_in_fp16: bool = False
    resolution: int = 512
    """Side in pixels of the square that the base was trained at."""
    resolution_range: tuple[float, float] = (0.75, 1.5)
    """Shares of `resolution` between which the base draws well."""
    widths: tuple[int, ...] = ()
    """Channels of the denoiser's blocks, narrowest first, where they are known."""
    data: DataFacts | None = None


Rule = Callable[[Project, Facts], Finding | None]
"""What is wrong, or None."""


def changed(group: BaseModel, *names: str) -> list[str]:
    """Return those of a group's fields that have not their default."""
    fields = type(group).model_fields
    return [name for name in names if getattr(group, name) != fields[name].default]


def without_effect(field: str, why: str, fix: str = "Remove it.") -> Finding:
    """Return the warning that a setting changes nothing."""
    return Finding("warning", field, f"{why}: it has no effect.", fix)
