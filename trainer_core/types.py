"""The nouns that cross module borders: plain frozen data, no behaviour, no torch at import."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

Level = Literal["error", "warning", "info"]
Split = Literal["train", "held_out"]
_MAX_INTEGER = 2**63 - 1
DATASET_SETTING = "dataset_setting"
"""Metadata of the fields of `Sample` that are settings of its dataset."""


@dataclass(frozen=True)
class Finding:
    """One thing to tell the user about a setting: where, what was seen, and how to mend it."""

    level: Level
    field: str
    message: str
    fix: str

    def __str__(self) -> str:
        """Render as one line for a terminal."""
        return f"{self.level}: {self.field}: {self.message} {self.fix}".rstrip()

    def as_dict(self) -> dict[str, str]:
        """The stable JSON form of `check --json`."""
        return asdict(self)


@dataclass(frozen=True)
class Verdict:
    """What the gate decided of a finished LoRA, and why."""

    promoted: bool
    """Whether it became the project's champion."""
    reasons: tuple[str, ...] = ()
    """Of a refused LoRA, every limit that it broke; of a promoted one, what was measured and is within its limit."""


class FileStat(NamedTuple):
    """What the file system says of a file without reading it; a changed field means: hash again.

    `ctime_ns` catches a replacement that kept size, mtime and inode (`cp --preserve` onto the file).
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileStat:
        """Take what counts from `os.stat`. Inodes of 64 bits keep 63, which is what SQLite's integers hold."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & _MAX_INTEGER)

    @classmethod
    def of_path(cls, path: Path) -> FileStat:
        """Ask the file system about a file."""
        return cls.of(path.stat())


@dataclass(frozen=True, order=True)
class Bucket:
    """A target size in pixels that a batch shares."""

    width: int
    height: int

    def __str__(self) -> str:
        """Width by height, as the field writes it."""
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Geometry:
    """How a picture became its bucket: all (height, width) or (top, left), in pixels.

    `original` is the size after EXIF rotation; `resized` the size before the crop; `crop` the (top, left) of the cut;
    `target` the bucket. SDXL's time ids are `original + crop + target`.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    crop: tuple[int, int]
    target: tuple[int, int]


@dataclass(frozen=True)
class Control:
    """A picture that an edit starts from: the first of a pair, where the sample's own picture is the wanted result."""

    path: Path
    picture: str
    """SHA-256 of its bytes."""
    original: tuple[int, int]
    """(height, width) in pixels after EXIF rotation."""
    encoded: tuple[int, int]
    """(height, width) in pixels that the VAE sees."""


@dataclass(frozen=True)
class View:
    """One way to see a picture: how it is cut, whether it is mirrored (after the cut), how its colours are changed."""

    geometry: Geometry
    flip: bool = False
    color: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 0.0)
    """Factors of brightness, contrast and saturation, and the turn of the hue in [-0.5, 0.5]."""


@dataclass(frozen=True)
class Mask:
    """Which pixels of a picture are trained: white is, black is not."""

    path: Path
    picture: str
    """SHA-256 of its bytes."""
    alpha: bool = False
    """The mask is the alpha channel of the picture at `path`, which is then the sample's own."""


@dataclass(frozen=True)
class CaptionRules:
    """How a text is drawn from a caption: settings of `caption` and `tags`, which docs/captions.md explains."""

    in_turn: bool = False
    """Each epoch takes the next line; else each draw takes any."""
    wildcards: bool = False
    shuffle: bool = False
    dropout: float = 0.0
    separator: str = ","
    keep_tokens: int = 0
    keep_tokens_separator: str = ""
    secondary_separator: str = ""


@dataclass(frozen=True)
class CaptionSource:
    """What the texts of a sample are drawn from, where they differ from draw to draw."""

    lines: tuple[str, ...]
    """At least one, prefix and suffix included; wildcards and marks are still in them."""
    trigger_word: str
    rules: CaptionRules


def _dataset_setting(default: Any) -> Any:
    """Declare a field of `Sample` that takes the dataset's setting of the same name.

    That is all there is to do for a new one: `trainer_core.data.sample_identity` finds it, so that it is copied from
    the settings, decides data versions where it is not the default, and stands in tables and in the answers of `plan`.
    """
    return field(default=default, metadata={DATASET_SETTING: True})


@dataclass(frozen=True)
class Sample:
    """One picture with its caption, ready to be encoded.

    `id` is dataset name + "/" + path relative to the dataset folder, with its extension: never a position or a stem.
    """

    id: str
    path: Path
    picture: str
    """SHA-256 of the picture's bytes."""
    caption: str
    bucket: Bucket
    geometry: Geometry
    repeats: int
    split: Split
    controls: tuple[Control, ...] = ()
    """Control pictures of edit families, in order."""
    texts: tuple[str, ...] = ()
    """Captions that training picks from with equal probability; a repeated text is picked more often. Empty where
    `caption` is the only one."""
    epoch_groups: int = 1
    """Number of equal groups in `texts`; epoch e picks from group e mod `epoch_groups`."""
    source: CaptionSource | None = None
    """What captions are made from, where they vary; without `texts`, one is made for each batch."""
    class_caption: str = ""
    """The caption with the class in place of the trigger word; empty unless output is preserved."""
    views: tuple[View, ...] = ()
    """Crops, mirror images and colours that training picks from, all of the bucket's size; empty for `geometry`
    alone."""
    mask: Mask | None = None
    """What of the picture is trained; None for all of it."""
    loss_weight: float = _dataset_setting(1.0)
    """What its loss is multiplied by."""
    regularisation: bool = _dataset_setting(False)
    """Whether it shows the class rather than the concept."""


@dataclass(frozen=True)
class TextCondition:
    """What the text encoders say of a caption.

    One caption: embeds [L, D], pooled [P] or None, mask bool [L] or None. A batch: embeds [B, L, D], pooled [B, P],
    mask bool [B, L]; captions of other lengths are padded with zeros at the end, and the mask is False there.
    """

    embeds: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None
    lengths: tuple[int, ...] | None = None
    """Of a batch, the tokens of each caption, where they all count: known without asking the device."""


@dataclass(frozen=True)
class Conditioning:
    """What a denoiser is told of a batch, beside noisy latents and their noise level.

    `controls`: latents of the control pictures, one tensor [B, C, h, w] for each place; sizes may differ between
    places, never within a batch. `guidance`: for guidance-distilled denoisers.
    """

    text: TextCondition
    geometries: Sequence[Geometry]
    controls: Sequence[Tensor] = ()
    guidance: float = 1.0


@dataclass(frozen=True)
class Batch:
    """One micro-batch, on the training device.

    latents [B, C, h, w] (normalised), noise the same shape in float32, u [B] uniform in [0, 1) float32 that picks the
    timestep, text stacked on the first axis, controls as in `Conditioning`.
    """

    sample_ids: tuple[str, ...]
    latents: Tensor
    noise: Tensor
    u: Tensor
    text: TextCondition
    geometries: tuple[Geometry, ...]
    controls: tuple[Tensor, ...] = ()
    loss_weights: Tensor | None = None
    """[B] float32; None for ones."""
    masks: Tensor | None = None
    """[B, 1, h, w] float32 in [0, 1], of the latents' size; None where no sample has a mask."""
    class_text: TextCondition | None = None
    """The same captions with the class in place of the trigger word, where output is preserved."""
    captions: tuple[str, ...] = ()
    """The captions that were drawn, where they are encoded batch by batch."""
    input_noise: Tensor | None = None
    """The noise that the denoiser sees, where it is not `noise`, the one it should predict; of the same shape."""


@dataclass(frozen=True)
class ProgressEvent:
    """How far a stage is; reporters derive rate and ETA."""

    stage: str
    done: int
    total: int
    unit: str = "it"
    values: Mapping[str, float] = field(default_factory=dict[str, float])
    message: str = ""


Report = Callable[[ProgressEvent], None]
JSON = Any
"""A JSON value: dict, list, str, int, float, bool or None."""


def silent(event: ProgressEvent) -> None:
    """A reporter that says nothing."""
