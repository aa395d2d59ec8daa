"""The manifest: every picture found, as a sample or as an exclusion with its reason; nothing lost, nothing twice."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from trainer_core.config.groups import AugmentConfig, BucketConfig, CaptionConfig
from trainer_core.data.captions.caption_file import CaptionText, Multiline, choose_lines, split_lines
from trainer_core.data.captions.findings import caption_findings
from trainer_core.data.captions.sample_captions import CaptionChoices, CaptionPlan, caption_key_parts
from trainer_core.data.discovery.controls import ControlRules
from trainer_core.data.discovery.discovery_types import Discovery, Exclusion, PictureFile, join_names, printable
from trainer_core.data.discovery.masks import MaskProfile, resolve_mask
from trainer_core.data.epoch.holdout import HoldoutShare, group_of_picture, held_out_pictures, merge_groups
from trainer_core.data.epoch.regularisation import balance_regularisation
from trainer_core.data.pictures.augmentation import Faces, MaskProfiles, ViewBuilder, mask_weight_findings
from trainer_core.data.pictures.buckets import BucketGrid, assign_bucket
from trainer_core.data.pictures.crops_and_views import key_parts
from trainer_core.data.pictures.decode import PictureInfo
from trainer_core.data.pictures.multi_resolution import bucket_grids, name_by_resolution
from trainer_core.data.reports.dataset_findings import Draft, dataset_findings
from trainer_core.errors import DatasetError
from trainer_core.types import Bucket, Control, Finding, Sample


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
class Manifest:
    """All pictures of a project. `samples` and `excluded` are ordered by id; found == len(samples) + len(excluded).

    A picture that is trained at several resolutions counts once for each.
    """

    samples: tuple[Sample, ...]
    excluded: tuple[Exclusion, ...]
    findings: tuple[Finding, ...]
    total: int

    def __post_init__(self) -> None:
        """Check that no picture was lost on the way."""
        assert self.total == len(self.samples) + len(self.excluded)

    @cached_property
    def data_version(self) -> str:
        """SHA-256 hex of what the samples mean: equal whenever the same training would see the same data.

        Over id, content, caption, bucket, geometry, repeats, split, control pictures (content and encoded size) and the
        texts that draws choose from of every sample, and its views, mask, weight and kind where they are not the usual;
        paths and exclusions do not count.
        """
        text = json.dumps([_row(sample) for sample in self.samples], ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that forbid training."""
        return tuple(finding for finding in self.findings if finding.level == "error")


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


def build_manifest(discoveries: Sequence[Discovery], known: FileFacts, rules: ManifestRules) -> Manifest:
    """Join what was found with what was read into samples.

    A picture without a hash could not be read, and is excluded; so is one whose caption file is not in
    `known.captions`. Every hash must have its info.

    Raises:
        DatasetError: two datasets have one name, or not one picture can be used.
        ConfigError: the bucket settings leave no bucket.
    """
    _check_names(discoveries)
    grids = bucket_grids(discoveries, rules.bucket, rules.multiple)
    drafts: list[Draft] = []
    excluded = [exclusion for discovery in discoveries for exclusion in discovery.excluded]
    found = sum(len(discovery.pictures) + len(discovery.excluded) for discovery in discoveries)
    for found_in, picture in ((one, picture) for one in discoveries for picture in one.pictures):
        own = "" if found_in.regularisation and found_in.trigger_word is None else found_in.trigger_word
        word = rules.caption.trigger_word if own is None else own
        judged = [(place, _judge(picture, known, rules, place.grid, word)) for place in grids[found_in.name]]
        made, gone = name_by_resolution(picture.id, judged)
        drafts += made
        excluded += gone
        found += len(made) + len(gone) - 1
    held = _held_out(discoveries, drafts)
    looks, by_name = ViewBuilder(rules.augment, known.masks, known.faces), {one.name: one for one in discoveries}
    samples, unneeded, told = balance_regularisation(
        sorted((_sample(draft, held, rules, looks, by_name) for draft in drafts), key=lambda sample: sample.id)
    )
    excluded += unneeded
    findings = [finding for discovery in discoveries for finding in discovery.findings]
    findings.extend(dataset_findings(drafts, excluded, held, rules.caption))
    findings.extend(caption_findings(drafts, rules.caption, rules.captions.rules))
    findings.extend(_split_findings(discoveries, samples))
    findings += [*told, *looks.findings(samples), *mask_weight_findings(samples, known.masks)]
    if not samples:
        raise DatasetError(_nothing(discoveries, excluded, findings))
    excluded.sort(key=lambda exclusion: exclusion.path)
    return Manifest(tuple(samples), tuple(excluded), tuple(findings), found)


def _row(sample: Sample) -> list[object]:
    geometry, bucket = sample.geometry, sample.bucket
    shape = (*geometry.original, *geometry.resized, *geometry.crop, *geometry.target)
    size = (bucket.width, bucket.height)
    row: list[object] = [sample.id, sample.picture, sample.caption, size, shape, sample.repeats, sample.split]
    if sample.controls:
        row.append([(control.picture, *control.original, *control.encoded) for control in sample.controls])
    if drawn := caption_key_parts(sample):
        row.append(drawn)
    if unusual := _unusual(sample):
        row.append(unusual)
    return row


def _unusual(sample: Sample) -> dict[str, object]:
    """Return what a sample has that most have not: a version of before there was such a thing stays as it was."""
    found: dict[str, object] = {}
    if sample.views:
        shapes = [(view.geometry.resized, view.geometry.crop, key_parts(view)) for view in sample.views]
        found["views"] = shapes
    if sample.mask is not None:
        found["mask"] = [sample.mask.picture, sample.mask.alpha]
    if sample.loss_weight != 1.0:
        found["loss_weight"] = sample.loss_weight
    if sample.regularisation:
        found["regularisation"] = True
    return found


def _check_names(discoveries: Sequence[Discovery]) -> None:
    counts = Counter(discovery.name for discovery in discoveries)
    for name, count in counts.items():
        if count > 1:
            roots = join_names(str(discovery.root) for discovery in discoveries if discovery.name == name)
            raise DatasetError(f"{count} datasets are named {name}: {roots}. Give each a `name` of its own.")


def _judge(
    picture: PictureFile, known: FileFacts, rules: ManifestRules, grid: BucketGrid, trigger_word: str
) -> Draft | str:
    content = known.hashes.get(picture.file)
    if content is None:
        return "unreadable: the file could not be read; check its permissions"
    info = known.infos[content]
    if info.problem is not None:
        return info.problem
    text = _caption_text(picture, known.captions, rules.caption.multiline)
    if text.problem is not None:
        return text.problem
    chosen = choose_lines(text, rules.caption.multiline)
    if not chosen and rules.caption.missing != "empty":
        return "no caption: there is no caption file, or it is empty"
    geometry = assign_bucket(info.width, info.height, grid)
    if isinstance(geometry, str):
        return geometry
    controls = _controls(picture, known, rules)
    if isinstance(controls, str):
        return controls
    mask = resolve_mask(picture.mask, info, known.hashes, known.infos) if picture.mask else None
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


def _controls(picture: PictureFile, known: FileFacts, rules: ManifestRules) -> tuple[Control, ...] | str:
    """Return the control pictures of a picture, or the reason why one of them cannot be used."""
    if rules.control is None:
        return ()
    controls: list[Control] = []
    for found in picture.controls:
        name, content = printable(found.path.name), known.hashes.get(found.file)
        if content is None:
            return f"control picture unreadable: {name}: the file could not be read; check its permissions"
        info = known.infos[content]
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


def _held_out(discoveries: Sequence[Discovery], drafts: Sequence[Draft]) -> frozenset[str]:
    """Return the contents that are held out; pictures of one group go together."""
    contents: dict[str, str] = {draft.picture.id: draft.content for draft in drafts}
    grouped = merge_groups(
        (f"{discovery.name}/{group}", contents[picture.id])
        for discovery in discoveries
        if discovery.held_out_group
        for picture in discovery.pictures
        if picture.id in contents and (group := group_of_picture(discovery.held_out_group, picture.id)) is not None
    )
    parts = {
        discovery.name: HoldoutShare(
            discovery.held_out,
            [
                grouped.get(contents[picture.id], contents[picture.id])
                for picture in discovery.pictures
                if picture.id in contents
            ],
        )
        for discovery in discoveries
    }
    held = held_out_pictures(parts)
    return held if not grouped else frozenset(one for one in contents.values() if grouped.get(one, one) in held)


def _sample(
    draft: Draft, held: frozenset[str], rules: ManifestRules, looks: ViewBuilder, discoveries: Mapping[str, Discovery]
) -> Sample:
    """Make the sample; held-out ones are seen whole and plain, so that their losses compare between runs."""
    picture, geometry = draft.picture, draft.geometry
    found_in = discoveries[picture.id.partition("/")[0]]
    trained = draft.content not in held
    name, views, mask = draft.sample_id, (), draft.mask if trained else None
    if trained:
        geometry, views = looks.views(name, draft.content, geometry, mask)
    drawn = rules.captions.choices(draft.source, rules.caption.variants) if trained else CaptionChoices()
    return Sample(
        name,
        picture.path,
        draft.content,
        draft.caption,
        Bucket(geometry.target[1], geometry.target[0]),
        geometry,
        picture.repeats,
        "train" if trained else "held_out",
        draft.controls,
        texts=drawn.texts,
        epoch_groups=drawn.epoch_groups,
        source=drawn.source,
        class_caption=draft.class_caption if trained else "",
        views=views,
        mask=mask,
        loss_weight=found_in.loss_weight,
        regularisation=found_in.regularisation,
    )


def _split_findings(discoveries: Sequence[Discovery], samples: Sequence[Sample]) -> Iterator[Finding]:
    held = Counter(sample.split == "held_out" for sample in samples)
    if samples and not held[False]:
        yield Finding(
            "error", "datasets", "Every picture is held out of training.", "Lower `held_out`, or add pictures."
        )
    elif held[True]:
        message = f"{held[True]} of {len(samples)} pictures are held out of training to measure the loss on them."
        yield Finding("info", "datasets", message, "Set `held_out: 0` to train on all.")
    elif any(discovery.held_out > 0 for discovery in discoveries):
        message = "No picture could be held out: there are too few different ones; no held-out loss will be measured."
        yield Finding("warning", "datasets", message, "Add pictures, or raise `held_out`.")


def _nothing(discoveries: Sequence[Discovery], excluded: Sequence[Exclusion], findings: Sequence[Finding]) -> str:
    roots = join_names(str(discovery.root) for discovery in discoveries)
    causes = Counter(exclusion.cause for exclusion in excluded)
    seen = ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items()))
    summary = f"{len(excluded)} pictures found, none usable: {seen}" if excluded else "no file ends like a picture"
    lines = [f"{roots}: there is not one picture to train on ({summary})."]
    if excluded:
        lines.append(f"First: {excluded[0].path}: {excluded[0].reason}.")
    lines.extend(str(finding) for finding in findings if finding.level != "info")
    return "\n".join([*lines, "Add pictures (png, jpg, webp, bmp, gif, tif, avif) with captions, or correct the path."])
