"""From a picture file to a draft: a picture that can be trained on, before the split, or the reason why it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from trainer_core.config.groups import AugmentConfig, BucketConfig, CaptionConfig
from trainer_core.data.captions.caption_file import CaptionText, Multiline, choose_lines, split_lines
from trainer_core.data.captions.sample_captions import CaptionPlan
from trainer_core.data.discovery.controls import ControlRules
from trainer_core.data.discovery.discovery_types import PictureFile
from trainer_core.data.discovery.masks import resolve_mask
from trainer_core.data.names import printable
from trainer_core.data.pictures.augmentation import Faces, MaskProfiles
from trainer_core.data.pictures.buckets import BucketGrid, assign_bucket
from trainer_core.data.pictures.mask_crop import MaskProfile
from trainer_core.data.pictures.picture_info import PictureInfo
from trainer_core.types import CaptionSource, Control, Geometry, Mask


@dataclass(frozen=True)
class ManifestRules:
    """The settings that turn found pictures into samples. `multiple`: the family's `size_multiple` in pixels."""

    caption: CaptionConfig
    bucket: BucketConfig
    multiple: int
    control: ControlRules | None = None
    """None for families that take no control pictures."""
    captions: CaptionPlan = CaptionPlan()
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class FileFacts:
    """What was read of the files.

    Hashes by absolute path of pictures, control pictures and masks, infos by content hash, captions by absolute path.
    """

    hashes: Mapping[str, str]
    infos: Mapping[str, PictureInfo]
    captions: Mapping[str, CaptionText]
    masks: MaskProfiles = field(default_factory=dict[tuple[str, bool], MaskProfile])
    faces: Faces = field(default_factory=Faces)


class Draft(NamedTuple):
    """A picture that will be a sample, before the split. `lines`: of its caption file; `notes`: of its decoding."""

    picture: PictureFile
    content: str
    caption: str
    geometry: Geometry
    lines: tuple[str, ...]
    notes: tuple[str, ...]
    controls: tuple[Control, ...] = ()
    source: CaptionSource | None = None
    """What its texts are drawn from, where draws may differ."""
    class_caption: str = ""
    trigger_word: str = ""
    mask: Mask | None = None
    id: str = ""
    """The sample id, where the picture is trained at several resolutions; else that of the picture."""

    @property
    def sample_id(self) -> str:
        """The sample's id."""
        return self.id or self.picture.id


def make_draft(
    picture: PictureFile, facts: FileFacts, rules: ManifestRules, grid: BucketGrid, trigger_word: str
) -> Draft | str:
    """Return the draft of a picture, or the reason why it cannot be used, as "cause: detail".

    Args:
        picture: of a dataset.
        facts: what was read of all files.
        rules: the settings.
        grid: buckets of one resolution.
        trigger_word: of the picture's dataset; "" for none.
    """
    content = facts.hashes.get(picture.file)
    if content is None:
        return "unreadable: the file could not be read; check its permissions"
    info = facts.infos[content]
    if info.problem is not None:
        return info.problem
    text = _caption_text(picture, facts.captions, rules.caption.multiline)
    if text.problem is not None:
        return text.problem
    chosen = choose_lines(text, rules.caption.multiline)
    if not chosen and rules.caption.missing != "empty":
        return "no caption: there is no caption file, or it is empty"
    geometry = assign_bucket(info.width, info.height, grid)
    if isinstance(geometry, str):
        return geometry
    controls = _controls(picture, facts, rules)
    if isinstance(controls, str):
        return controls
    mask = resolve_mask(picture.mask, info, facts.hashes, facts.infos) if picture.mask else None
    if isinstance(mask, str):
        return mask
    written = rules.captions.parse(text, rules.caption, trigger_word)
    return Draft(
        picture,
        content,
        written.caption,
        geometry,
        text.lines,
        info.notes,
        controls,
        written.source,
        written.class_caption,
        trigger_word,
        mask,
    )


def _controls(picture: PictureFile, facts: FileFacts, rules: ManifestRules) -> tuple[Control, ...] | str:
    """Return the control pictures of a picture, or the reason why one of them cannot be used."""
    if rules.control is None:
        return ()
    controls: list[Control] = []
    for found in picture.controls:
        name, content = printable(found.path.name), facts.hashes.get(found.file)
        if content is None:
            return f"control picture unreadable: {name}: the file could not be read; check its permissions"
        info = facts.infos[content]
        if info.problem is not None:
            cause, _, detail = info.problem.partition(": ")
            return f"control picture {cause}: {name}: {detail}"
        width, height = rules.control.fit(info.width, info.height, rules.control.side)
        if min(width, height) < 1:
            return f"control picture too narrow: {name}: {info.width}x{info.height} has no size to be encoded in"
        controls.append(Control(found.path, content, (info.height, info.width), (height, width)))
    return tuple(controls)


def _caption_text(picture: PictureFile, captions: Mapping[str, CaptionText], multiline: Multiline) -> CaptionText:
    if picture.inline_caption is not None:
        return _inline(picture.inline_caption, multiline)
    if picture.caption_file is None:
        return CaptionText(())
    missing = CaptionText((), "caption unreadable: the file could not be read; check its permissions")
    return captions.get(picture.caption_file, missing)


def _inline(text: str, multiline: Multiline) -> CaptionText:
    try:
        text.encode()
    except UnicodeEncodeError:
        return CaptionText((), "caption is not UTF-8: the metadata holds half a surrogate pair")
    # Tables break captions anywhere: their lines count only where lines are asked for.
    lines = split_lines(text) if multiline in ("each", "random") else (text,)
    return CaptionText(tuple(line for one in lines if (line := " ".join(one.split()))))
