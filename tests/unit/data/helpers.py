"""Datasets for tests: drawn with Pillow, read as a stage would."""

import hashlib
from pathlib import Path
from typing import Any

from PIL import Image

from trainer_core.config.groups import AugmentConfig, BucketConfig, CaptionConfig, DatasetConfig
from trainer_core.data.build_manifest import build_manifest
from trainer_core.data.captions.caption_file import read_caption
from trainer_core.data.discovery.discover import Discovery, discover
from trainer_core.data.draft import FileFacts, ManifestRules
from trainer_core.data.manifest import Manifest
from trainer_core.data.pictures.decode import probe
from trainer_core.data.pictures.mask_pixels import load_mask, mask_profile
from trainer_core.types import Bucket, Finding, Geometry, Sample

SMALL_BUCKETS = BucketConfig(resolution=64, step=8, min_side=32, max_side=128)


def bucket_config(**given: Any) -> BucketConfig:
    """Return settings of buckets as an open project has them: sides are numbers, those of SD1.5 unless given."""
    return BucketConfig.model_validate({"resolution": 512, "max_side": 1024, **given})


def draw(path: Path, size: tuple[int, int] = (64, 64), colour: tuple[int, int, int] = (200, 30, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def pair(folder: Path, name: str, caption: str = "a cat", colour: tuple[int, int, int] = (200, 30, 60)) -> Path:
    path = draw(folder / name, colour=colour)
    path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def look(folder: Path, caption: CaptionConfig | None = None, **settings: object) -> Discovery:
    return discover(
        DatasetConfig.model_validate({"path": folder, "name": "set", **settings}), caption or CaptionConfig()
    )


def read_all(discoveries: list[Discovery]) -> FileFacts:
    pictures = [picture for discovery in discoveries for picture in discovery.pictures]
    paths = [item.path for item in pictures] + [control.path for item in pictures for control in item.controls]
    masks = [item.mask for item in pictures if item.mask]
    paths += [mask.path for mask in masks]
    hashes = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    infos = {hashes[str(path)]: probe(path) for path in paths}
    captions = {item.caption_file: read_caption(Path(item.caption_file)) for item in pictures if item.caption_file}
    profiles = {
        (hashes[mask.file], mask.alpha): mask_profile(load_mask(mask.path, alpha=mask.alpha))
        for mask in masks
        if infos[hashes[mask.file]].problem is None
    }
    return FileFacts(hashes, infos, captions, profiles)


def build(
    *discoveries: Discovery,
    caption: CaptionConfig | None = None,
    bucket: BucketConfig = SMALL_BUCKETS,
    **augment: object,
) -> Manifest:
    rules = ManifestRules(caption or CaptionConfig(), bucket, 8, augment=AugmentConfig.model_validate(augment))
    return build_manifest(discoveries, read_all(list(discoveries)), rules)


def sample(name: str, caption: str = "a cat", **fields: Any) -> Sample:
    """Make a sample of nothing, for what needs no picture."""
    geometry = Geometry((64, 64), (64, 64), (0, 0), (64, 64))
    known: dict[str, Any] = {"picture": "0" * 64, "repeats": 1, "split": "train"} | fields
    return Sample(id=name, path=Path(name), caption=caption, bucket=Bucket(64, 64), geometry=geometry, **known)


def texts(findings: tuple[Finding, ...], level: str) -> str:
    return "\n".join(str(finding) for finding in findings if finding.level == level)


def reasons(discovery: Discovery | Manifest) -> dict[str, str]:
    return {exclusion.path: exclusion.reason for exclusion in discovery.excluded}


def ids(discovery: Discovery) -> list[str]:
    return [picture.id for picture in discovery.pictures]
