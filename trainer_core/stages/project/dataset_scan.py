"""Look at the dataset folders: stat everything, hash what changed, decode what is new, remember what was learnt.

What a picture is (size, mode, whether it decodes) is a fact about its bytes, remembered by their SHA-256; so are the
lines of a caption file. A folder that did not change costs one scan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer_core.config.groups import AugmentConfig, BucketConfig, CaptionConfig, DatasetConfig, TagsConfig
from trainer_core.config.reads import GroupPart, StageSettings
from trainer_core.data.build_manifest import build_manifest
from trainer_core.data.captions.caption_file import CAPTIONS_VERSION, CaptionText, parse_caption, read_caption
from trainer_core.data.captions.caption_variants import caption_rules
from trainer_core.data.captions.sample_captions import CaptionPlan, encodes_captions_live
from trainer_core.data.discovery.controls import ControlRules
from trainer_core.data.discovery.discover import Discovery, discover
from trainer_core.data.discovery.discovery_types import ControlFile, MaskFile, PictureFile
from trainer_core.data.draft import FileFacts, ManifestRules
from trainer_core.data.manifest import Manifest
from trainer_core.data.pictures.augmentation import Faces
from trainer_core.data.pictures.picture_info import DECODE_VERSION, PictureInfo
from trainer_core.errors import DatasetError
from trainer_core.families.spec import FamilySpec
from trainer_core.files import FileChanged, read_verified
from trainer_core.stages.project.picture_analysis import detect_faces, mask_profiles
from trainer_core.store import Store
from trainer_core.store.facts import FactTable
from trainer_core.store.keys import digest
from trainer_core.types import FileStat, ProgressEvent, Report


@dataclass(frozen=True)
class Preservation(GroupPart):
    """What decides the captions with the class in place of the trigger word, of the group `loss`."""

    preservation_weight: float
    preservation_class: str


@dataclass(frozen=True)
class TextCache(GroupPart):
    """Whether captions are encoded beforehand, of the group `text`."""

    cache: Literal["auto", "always", "never"]


@dataclass(frozen=True)
class TrainedTextEncoders(GroupPart):
    """Which text encoders change in training, of the group `adapter`."""

    text_encoders: tuple[str, ...]


@dataclass(frozen=True)
class DatasetSettings(StageSettings):
    """The settings that decide what samples there are."""

    datasets: tuple[DatasetConfig, ...]
    caption: CaptionConfig
    tags: TagsConfig
    bucket: BucketConfig
    augment: AugmentConfig
    loss: Preservation
    text: TextCache
    adapter: TrainedTextEncoders


@dataclass(frozen=True)
class ScannedDataset:
    """The dataset folders as they were at one moment."""

    manifest: Manifest
    folder_version: str
    """Digest of every picture, caption, control picture and mask, place and content, and of what cannot be used: what
    Dagster observes."""
    pictures_probed: int
    """Pictures that had to be decoded because their bytes were new."""


def scan_datasets(settings: DatasetSettings, spec: FamilySpec, store: Store, report: Report) -> ScannedDataset:
    """Look at all dataset folders of a project.

    Raises:
        DatasetError: a folder is missing, or holds nothing that can be trained on.
    """
    control = control_rules(spec, settings.bucket.control_resolution)
    discoveries = [discover(dataset, settings.caption, control) for dataset in settings.datasets]
    pictures = [picture for discovery in discoveries for picture in discovery.pictures]
    hashes = store.index.file_hashes(_stats(pictures))
    infos, probed = _picture_infos(pictures, hashes, store, report)
    captions = _caption_texts(pictures, hashes, store)
    known = FileFacts(
        hashes,
        infos,
        captions,
        mask_profiles(pictures, hashes, infos, store, report),
        detect_faces(pictures, hashes, infos, store, report) if settings.augment.crop == "face" else Faces(),
    )
    rules = ManifestRules(
        settings.caption, settings.bucket, spec.size_multiple, control, _caption_plan(settings), settings.augment
    )
    manifest = build_manifest(discoveries, known, rules)
    return ScannedDataset(manifest, _folder_version(discoveries, hashes), probed)


def _caption_plan(settings: DatasetSettings) -> CaptionPlan:
    preserved = settings.loss.preservation_class if settings.loss.preservation_weight else None
    live = encodes_captions_live(settings.text.cache, settings.adapter.text_encoders)
    return CaptionPlan(caption_rules(settings.caption, settings.tags), preserved, live)


def control_rules(spec: FamilySpec, side: int) -> ControlRules | None:
    """Return what a family does with control pictures, for a size that is asked for; None if it takes none."""
    control = spec.control
    return None if control is None else ControlRules(control.most, control.required, control.fit, side)


def _stats(pictures: Sequence[PictureFile]) -> dict[str, FileStat]:
    stats = {picture.file: picture.stat for picture in pictures}
    for picture in pictures:
        if picture.caption_file is not None and picture.caption_stat is not None:
            stats[picture.caption_file] = picture.caption_stat
        for control in picture.controls:
            stats[control.file] = control.stat
        if picture.mask is not None:
            stats[picture.mask.file] = picture.mask.stat
    return stats


def _picture_infos(
    pictures: Sequence[PictureFile], hashes: Mapping[str, str], store: Store, report: Report
) -> tuple[dict[str, PictureInfo], int]:
    by_hash: dict[str, PictureFile | ControlFile | MaskFile] = {
        hashes[picture.file]: picture for picture in pictures if picture.file in hashes
    }
    controls = (control for picture in pictures for control in picture.controls)
    by_hash |= {hashes[control.file]: control for control in controls if control.file in hashes}
    masks = (picture.mask for picture in pictures if picture.mask is not None and not picture.mask.alpha)
    by_hash |= {hashes[mask.file]: mask for mask in masks if mask.file in hashes}
    table = FactTable(
        store.index,
        f"picture {DECODE_VERSION}",
        PictureInfo.to_json,
        PictureInfo.from_json,
        lasting=lambda info: info.lasting,
    )

    def progress(done: int, total: int) -> None:
        report(ProgressEvent("validated_dataset", done, total, "picture"))

    return table.complete(by_hash, lambda sha256: _probe_bytes(by_hash[sha256].path, sha256), progress)


def _caption_texts(pictures: Sequence[PictureFile], hashes: Mapping[str, str], store: Store) -> dict[str, CaptionText]:
    names = {picture.caption_file for picture in pictures if picture.caption_file}
    wanted = {name: hashes[name] for name in names if name in hashes}
    paths = {sha256: Path(name) for name, sha256 in wanted.items()}
    table = FactTable(
        store.index,
        f"caption {CAPTIONS_VERSION}",
        CaptionText.to_json,
        CaptionText.from_json,
        lasting=lambda text: text.lasting,
    )
    texts, _ = table.complete(paths, lambda sha256: _caption_bytes(paths[sha256], sha256), lambda done, total: None)
    return {name: texts[sha256] for name, sha256 in wanted.items()}


def _probe_bytes(path: Path, sha256: str) -> PictureInfo:
    from trainer_core.data.pictures.decode import probe

    data = _bytes_of(path, sha256)
    return probe(path if data is None else data)


def _caption_bytes(path: Path, sha256: str) -> CaptionText:
    data = _bytes_of(path, sha256)
    return read_caption(path) if data is None else parse_caption(data)


def _bytes_of(path: Path, sha256: str) -> bytes | None:
    """Return the very bytes that were hashed, as facts about them are remembered by that hash; None if unreadable.

    Raises:
        DatasetError: the file changed since.
    """
    try:
        return read_verified(path, sha256)
    except OSError:
        return None
    except FileChanged as error:
        raise DatasetError(f"{path}: changed while it was being read. Run again when it is complete.") from error


def _folder_version(discoveries: Sequence[Discovery], hashes: Mapping[str, str]) -> str:
    rows: list[list[str | None]] = []
    for discovery in discoveries:
        for picture in discovery.pictures:
            caption = hashes.get(picture.caption_file) if picture.caption_file else picture.inline_caption
            row = [picture.id, hashes.get(picture.file), caption]
            rows.append(row)
            if picture.controls:
                row += [hashes.get(control.file) for control in picture.controls]
            if picture.mask is not None:
                row += ["mask", hashes.get(picture.mask.file)]
        rows.extend([gone.path, None, gone.reason] for gone in discovery.excluded)
    return digest(sorted(rows, key=str))
