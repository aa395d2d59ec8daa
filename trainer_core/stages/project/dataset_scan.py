"""Look at the dataset folders: stat everything, hash what changed, decode what is new, remember what was learnt.

What a picture is (size, mode, whether it decodes) is a fact about its bytes, remembered by their SHA-256; so are the
lines of a caption file. A folder that did not change costs one scan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from trainer_core.config.project import Project
from trainer_core.data.captions.caption_file import CAPTIONS_VERSION, CaptionText, parse_caption, read_caption
from trainer_core.data.captions.sample_captions import CaptionPlan
from trainer_core.data.discovery.controls import ControlRules
from trainer_core.data.discovery.discover import Discovery, discover
from trainer_core.data.discovery.discovery_types import FoundControl, FoundMask, FoundPicture
from trainer_core.data.manifest import Known, Manifest, Rules, assemble
from trainer_core.data.pictures.augmentation import Faces
from trainer_core.data.pictures.decode import DECODE_VERSION, PictureInfo, probe
from trainer_core.errors import DatasetError
from trainer_core.families.spec import FamilySpec
from trainer_core.stages.project.picture_analysis import faces_of, mask_profiles
from trainer_core.store import Store
from trainer_core.store.keys import digest
from trainer_core.types import FileStat, ProgressEvent, Report

_THREADS = 4
_REMEMBER_EVERY = 200
"""Pictures decoded between two writes to the index, so that a kill loses little."""


@dataclass(frozen=True)
class ScannedDataset:
    """The dataset folders as they were at one moment."""

    manifest: Manifest
    folder_version: str
    """Digest of every picture, caption, control picture and mask, place and content, and of what cannot be used: what
    Dagster observes."""
    pictures_probed: int
    """Pictures that had to be decoded because their bytes were new."""


def scan_datasets(project: Project, spec: FamilySpec, store: Store, report: Report) -> ScannedDataset:
    """Look at all dataset folders of a project.

    Raises:
        DatasetError: a folder is missing, or holds nothing that can be trained on.
    """
    control = control_rules(spec, project.bucket.control_resolution)
    discoveries = [discover(dataset, project.caption, control) for dataset in project.datasets]
    pictures = [picture for discovery in discoveries for picture in discovery.pictures]
    hashes = store.index.file_hashes(_stats(pictures))
    infos, probed = _picture_infos(pictures, hashes, store, report)
    captions = _caption_texts(pictures, hashes, store)
    known = Known(
        hashes,
        infos,
        captions,
        mask_profiles(pictures, hashes, infos, store, report),
        faces_of(pictures, hashes, infos, store, report) if project.augment.crop == "face" else Faces(),
    )
    rules = Rules(
        project.caption, project.bucket, spec.size_multiple, control, CaptionPlan.of(project), project.augment
    )
    manifest = assemble(discoveries, known, rules)
    return ScannedDataset(manifest, _folder_version(discoveries, hashes), probed)


def control_rules(spec: FamilySpec, side: int) -> ControlRules | None:
    """Return what a family does with control pictures, for a size that is asked for; None if it takes none."""
    control = spec.control
    return None if control is None else ControlRules(control.most, control.required, control.fit, side)


def _stats(pictures: Sequence[FoundPicture]) -> dict[str, FileStat]:
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
    pictures: Sequence[FoundPicture], hashes: Mapping[str, str], store: Store, report: Report
) -> tuple[dict[str, PictureInfo], int]:
    by_hash: dict[str, FoundPicture | FoundControl | FoundMask] = {
        hashes[picture.file]: picture for picture in pictures if picture.file in hashes
    }
    controls = (control for picture in pictures for control in picture.controls)
    by_hash |= {hashes[control.file]: control for control in controls if control.file in hashes}
    masks = (picture.mask for picture in pictures if picture.mask is not None and not picture.mask.alpha)
    by_hash |= {hashes[mask.file]: mask for mask in masks if mask.file in hashes}
    kind = f"picture {DECODE_VERSION}"
    infos = {sha256: PictureInfo.from_json(fact) for sha256, fact in store.index.facts(kind, by_hash).items()}
    new = [sha256 for sha256 in by_hash if sha256 not in infos]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="probe") as pool:
        for start in range(0, len(new), _REMEMBER_EVERY):
            chunk = new[start : start + _REMEMBER_EVERY]
            paths = [by_hash[sha256].path for sha256 in chunk]
            found = dict(zip(chunk, pool.map(_probe_bytes, paths, chunk), strict=True))
            store.index.remember(kind, {sha256: info.to_json() for sha256, info in found.items() if info.lasting})
            infos |= found
            report(ProgressEvent("validated_dataset", start + len(chunk), len(new), "picture"))
    return infos, len(new)


def _caption_texts(pictures: Sequence[FoundPicture], hashes: Mapping[str, str], store: Store) -> dict[str, CaptionText]:
    names = {picture.caption_file for picture in pictures if picture.caption_file}
    wanted = {name: hashes[name] for name in names if name in hashes}
    kind = f"caption {CAPTIONS_VERSION}"
    known = {
        sha256: CaptionText.from_json(fact) for sha256, fact in store.index.facts(kind, set(wanted.values())).items()
    }
    new = {sha256: _caption_bytes(Path(name), sha256) for name, sha256 in wanted.items() if sha256 not in known}
    if new:
        store.index.remember(kind, {sha256: text.to_json() for sha256, text in new.items() if text.lasting})
    texts = known | new
    return {name: texts[sha256] for name, sha256 in wanted.items()}


def _probe_bytes(path: Path, sha256: str) -> PictureInfo:
    data = _bytes_of(path, sha256)
    return probe(path if data is None else data)


def _caption_bytes(path: Path, sha256: str) -> CaptionText:
    data = _bytes_of(path, sha256)
    return read_caption(path) if data is None else parse_caption(data)


def _bytes_of(path: Path, sha256: str) -> bytes | None:
    """Return the very bytes that were hashed, as what is learnt of them is remembered by that hash; None if unreadable.

    Raises:
        DatasetError: the file changed since.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DatasetError(f"{path}: changed while it was being looked at. Run again when it is complete.")
    return data


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
