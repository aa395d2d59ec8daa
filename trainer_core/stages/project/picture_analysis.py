"""Per-picture analysis that cropping needs: mask weight and face position, cached by SHA-256."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from trainer_core.data.discovery.discovery_types import PictureFile
from trainer_core.data.names import stem_of
from trainer_core.data.pictures.augmentation import Faces
from trainer_core.data.pictures.faces import FACES_VERSION, Face, face_in_name, find_face, load_detector
from trainer_core.data.pictures.mask_crop import MASKS_VERSION, MaskProfile
from trainer_core.data.pictures.picture_info import TRANSPARENT, PictureInfo
from trainer_core.stages.project.verified_pictures import read_mask, read_picture
from trainer_core.store import Store
from trainer_core.store.facts import FactTable
from trainer_core.types import JSON, ProgressEvent, Report


def mask_profiles(
    pictures: Sequence[PictureFile],
    hashes: Mapping[str, str],
    infos: Mapping[str, PictureInfo],
    store: Store,
    report: Report,
) -> dict[tuple[str, bool], MaskProfile]:
    """Return where the weight of every mask lies, by its hash and whether it is an alpha channel."""
    profiles: dict[tuple[str, bool], MaskProfile] = {}
    for alpha in (False, True):
        paths = {
            content: picture.mask.path
            for picture in pictures
            if picture.mask is not None
            and picture.mask.alpha == alpha
            and (content := hashes.get(picture.mask.file)) is not None
            and (info := infos[content]).problem is None
            and (not alpha or TRANSPARENT in info.notes)
        }
        if paths:
            kind = f"{'alpha' if alpha else 'mask'} {MASKS_VERSION}"
            table = FactTable(store.index, kind, MaskProfile.to_json, MaskProfile.from_json)
            known, _ = table.complete(paths, partial(_mask_profile, paths, alpha), _progress(report, "mask"))
            profiles |= {(content, alpha): profile for content, profile in known.items()}
    return profiles


def detect_faces(
    pictures: Sequence[PictureFile],
    hashes: Mapping[str, str],
    infos: Mapping[str, PictureInfo],
    store: Store,
    report: Report,
) -> Faces:
    """Return the face of every picture whose name gives none; without a detector, only faces that are cached."""
    paths: dict[str, Path] = {}
    for picture in pictures:
        content = hashes.get(picture.file)
        if content is None or (info := infos[content]).problem is not None:
            continue
        if face_in_name(stem_of(picture.id.rpartition("/")[2]), info.width, info.height) is None:
            paths[content] = picture.path
    table = FactTable(store.index, f"face {FACES_VERSION}", _face_to_json, _face_from_json)
    faces = table.known(paths)
    new = [content for content in paths if content not in faces]
    if not new:
        return Faces(faces)
    if (detector := load_detector()) is None:
        return Faces(faces, detector_missing=True)

    def detect(content: str) -> Face | None:
        return find_face(detector, read_picture(paths[content], content))

    # One thread: a detector keeps state while it works.
    return Faces(faces | table.compute(new, detect, _progress(report, "face"), threads=1))


def _mask_profile(paths: Mapping[str, Path], alpha: bool, content: str) -> MaskProfile:
    from trainer_core.data.pictures.mask_pixels import mask_profile

    return mask_profile(read_mask(paths[content], content, alpha))


def _face_to_json(face: Face | None) -> JSON:
    return list(face) if face else []


def _face_from_json(value: JSON) -> Face | None:
    return Face(*value) if value else None


def _progress(report: Report, unit: str) -> Callable[[int, int], None]:
    return lambda done, total: report(ProgressEvent("validated_dataset", done, total, unit))
