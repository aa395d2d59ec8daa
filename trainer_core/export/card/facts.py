"""What a model card says, as plain data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from trainer_core.types import Verdict

GRID = "samples.png"
"""In `outputs/NAME/`: all samples, base beside LoRA."""
MOST_PICTURES = 8
"""Samples that lie beside the card as pictures of their own, for the Hub's gallery."""
_HUB_CACHE = re.compile(r"models--(.+)")
_PICTURE = re.compile(r"sample-\d+\.png")


@dataclass(frozen=True)
class Trained:
    """What was trained."""

    family: str
    """The family's title, `Stable Diffusion 1.5`."""
    rank: int
    alpha: float
    targets: str
    steps: int
    """Steps of the run."""
    step: int
    """The step that was chosen."""
    base_model: str = ""
    """Hub id or folder name of the base; `base_name` makes it of a path. Empty where unknown."""
    trigger_words: tuple[str, ...] = ()
    """One for each kind of dataset that has one."""
    kind: str = "lora"
    """`adapter.type`."""
    replaced: Mapping[str, str] = field(default_factory=dict[str, str])
    """Component of the base -> name of what was read in its place."""
    storage: str = ""
    """How the base was held, such as `nf4 (blocks+modulation)`; empty where it was dense."""


@dataclass(frozen=True)
class Rendered:
    """How the samples were rendered, and so how the LoRA is used."""

    prompts: tuple[str, ...] = ()
    negative_prompt: str = ""
    steps: int = 25
    guidance: float = 5.0
    width: int = 0
    """In pixels; 0 is the pipeline's own."""
    height: int = 0
    """In pixels; 0 is the pipeline's own."""
    controls: int = 0
    """Most control pictures that a prompt edits."""
    guidance_argument: str = "guidance_scale"
    """Argument of the pipeline's call that takes `guidance`."""
    strengths: tuple[float, ...] = ()
    """Strengths of the LoRA in the columns of the grid."""


@dataclass(frozen=True)
class Figure:
    """A measured value, of the base and of the LoRA; None where it was not measured."""

    name: str
    base: float | None
    lora: float | None
    share: bool = False
    """Whether it lies in [0, 1] and is shown in percent."""
    interval: tuple[float, float] | None = None
    """Of 95 %, around the LoRA's value."""
    pictures: int = 0
    """That it rests on; 0 where it rests on something else."""
    noise: float | None = None
    """Half the width of the interval of 95 % around the change from base to LoRA, in the unit of the figure."""


@dataclass(frozen=True)
class TrainingData:
    """What the dataset consists of."""

    trained: int
    """Pictures that were trained on."""
    held_out: int
    excluded: Mapping[str, int] = field(default_factory=dict[str, int])
    """Reason -> pictures left out for it."""
    buckets: tuple[tuple[str, int, int], ...] = ()
    """(bucket, pictures, how many of them are held out)."""
    paired: int = 0
    """Pictures, trained on or held out, that have control pictures."""
    regularisation: int = 0
    """Pictures among those trained on that do not show the concept."""


@dataclass(frozen=True)
class Lineage:
    """Where the file comes from: fingerprints in hex, and versions of libraries by name."""

    base_fingerprint: str
    dataset_version: str
    weights_sha256: str
    file_sha256: str
    versions: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card says."""

    name: str
    """The project's name."""
    file: str
    """Name of the LoRA file beside the card that diffusers reads; empty if there is none."""
    trained: Trained
    data: TrainingData
    lineage: Lineage
    rendered: Rendered = field(default_factory=Rendered)
    figures: tuple[Figure, ...] = ()
    """Held-out loss first."""
    verdict: Verdict | None = None
    """None where there is no gate."""
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    """Setting -> value, in the order of the table: those that people ask for, and those that are not the default."""
    comfyui_file: str = ""
    """Name of the file that ComfyUI reads, if there is one."""
    kohya_file: str = ""
    """Name of a LoRA file in kohya's keys, if there is one."""
    lycoris_file: str = ""
    """Name of the file in LyCORIS's own keys, if there is one."""
    denoiser: str = "unet"
    """What the pipeline calls the model that is adapted."""
    license: str = "other"
    """Identifier of the Hub."""


def base_name(path: PurePath) -> str:
    """Return what to call a base model: its id on the Hub for a folder of the Hub's cache, else its folder or file."""
    for part in reversed(path.parts):
        if found := _HUB_CACHE.fullmatch(part):
            return found[1].replace("--", "/")
    return path.stem if path.suffix == ".safetensors" else path.name


def picture_name(row: int) -> str:
    """Return what the sample of a prompt is called in `outputs/NAME/`; the first row is 0."""
    return f"sample-{row + 1}.png"


def is_picture_name(name: str) -> bool:
    """Say whether an output is a sample of one prompt."""
    return _PICTURE.fullmatch(name) is not None
