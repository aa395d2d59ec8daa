"""What a picture file is, as remembered by the SHA-256 of its bytes. Imports no Pillow: `decode` does the work."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from trainer_core.types import JSON

DECODE_VERSION = 1
"""Raise it when `load_rgb` or `to_bucket` gives other pixels for the same file: all latents are then encoded again."""
UNREADABLE = "unreadable"
OUT_OF_MEMORY = "out of memory"
TRANSPARENT = "has transparency, laid on white"
"""The note of a picture whose alpha channel hides something."""


@dataclass(frozen=True)
class PictureInfo:
    """What decoding a picture showed. Sizes are pixels after EXIF rotation; 0 and "" where decoding failed.

    `mode` is Pillow's name of the stored pixel format. `frames` counts frames or pages, 1 for a still picture.
    `notes` are facts worth counting, spelled alike for every picture.
    """

    width: int
    height: int
    mode: str
    frames: int
    problem: str | None = None
    """Why the picture cannot be used, as "cause: detail"; None if it can."""
    notes: tuple[str, ...] = ()

    @property
    def lasting(self) -> bool:
        """Whether this depends on the bytes alone. False where the machine failed: do not remember that."""
        return self.problem is None or not self.problem.startswith((UNREADABLE, OUT_OF_MEMORY))

    def to_json(self) -> JSON:
        """Return the JSON form that the index keeps under the file's SHA-256."""
        return {**asdict(self), "notes": list(self.notes)}

    @classmethod
    def from_json(cls, value: JSON) -> PictureInfo:
        """Read what `to_json` returned."""
        return cls(**(value | {"notes": tuple(value["notes"])}))


class PictureProblem(Exception):
    """A picture cannot be decoded; the text is "cause: detail"."""
