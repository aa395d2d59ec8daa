"""What training sees of each picture: its views, by `augment`, and what to tell about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from trainer_core.config.groups import AugmentConfig
from trainer_core.data.names import join_names, stem_of
from trainer_core.data.pictures.crops_and_views import Focus, augmented_views, is_plain
from trainer_core.data.pictures.faces import INSTALL, MISSING, Face, crop_around_face, face_in_name
from trainer_core.data.pictures.mask_crop import MaskProfile, crop_around_mask
from trainer_core.types import Finding, Geometry, Mask, Sample, View

MaskProfiles = Mapping[tuple[str, bool], MaskProfile]
"""(SHA-256, whether it is the alpha channel) -> where the weight of a mask lies."""


@dataclass(frozen=True)
class Faces:
    """What was found of faces: by SHA-256 of the picture; None where there is none."""

    by_picture: Mapping[str, Face | None] = field(default_factory=dict[str, Face | None])
    detector_missing: bool = False
    """Whether faces should have been looked for and no detector is installed."""


@dataclass
class ViewBuilder:
    """Makes the views of training pictures, and remembers what there is to tell of them."""

    augment: AugmentConfig
    masks: MaskProfiles
    faces: Faces
    faceless: list[str] = field(default_factory=list[str])
    maskless: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        """Find out once what is asked of every picture."""
        self.plain = is_plain(self.augment)

    def views(self, name: str, content: str, plain: Geometry, mask: Mask | None) -> tuple[Geometry, tuple[View, ...]]:
        """Return the cut that stands for a picture, and its views; `name` is its sample id."""
        if self.plain:
            return plain, ()
        return augmented_views(plain, content, self.augment, self._focus(name, content, plain, mask))

    def _focus(self, name: str, content: str, plain: Geometry, mask: Mask | None) -> Focus | None:
        if self.augment.crop == "mask":
            if mask is None:
                self.maskless.append(name)
                return None
            return partial(crop_around_mask, profile=self.masks[mask.picture, mask.alpha])
        if self.augment.crop == "face":
            height, width = plain.original
            face = face_in_name(stem_of(name.rpartition("/")[2]), width, height) or self.faces.by_picture.get(content)
            if face is None:
                self.faceless.append(name)
                return None
            return partial(crop_around_face, face=face)
        return None

    def findings(self, samples: Sequence[Sample]) -> Iterator[Finding]:
        """Say how many views there are to encode, and what was not found."""
        if self.faces.detector_missing and self.faceless:
            yield Finding("warning", "augment.crop", f"is `face`, but {MISSING}.", INSTALL)
        if self.faceless:
            message = f"{len(self.faceless)} picture(s) show no face that was found and are cut at the centre: "
            yield Finding("warning", "augment.crop", f"{message}{join_names(self.faceless)}.", "")
        if self.maskless:
            message = (
                f"{len(self.maskless)} picture(s) have no mask and are cut at the centre: {join_names(self.maskless)}."
            )
            yield Finding("warning", "augment.crop", message, "")
        counts = [len(sample.views) for sample in samples if sample.views]
        if counts:
            each = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
            message = f"{len(counts)} picture(s) have {each} views each: {sum(counts)} latents are encoded for them."
            yield Finding("info", "augment", message, "")


def mask_weight_findings(samples: Sequence[Sample], profiles: MaskProfiles) -> Iterator[Finding]:
    """Say how many pictures have a mask, how much of them it shows, and which masks show nothing."""
    masked = [(sample, profiles[sample.mask.picture, sample.mask.alpha].mean) for sample in samples if sample.mask]
    if not masked:
        return
    mean = sum(weight for _, weight in masked) / len(masked)
    message = f"{len(masked)} of {len(samples)} pictures are trained by their mask, which shows {mean:.0%} on average."
    yield Finding("info", "datasets.mask_path", message, "")
    if black := [sample.id for sample, weight in masked if not weight]:
        message = f"{len(black)} mask(s) are black, so nothing of the picture is trained: {join_names(black)}."
        yield Finding("warning", "datasets.mask_path", message, "White is what is trained. Remove or invert the mask.")
