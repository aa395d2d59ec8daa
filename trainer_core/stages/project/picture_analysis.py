"""Per-picture analysis that cropping needs: mask weight and face position, cached by SHA-256."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainer_core.data.discovery.controls import stem_of
from trainer_core.data.discovery.discovery_types import PictureFile
from trainer_core.data.discovery.masks import MASKS_VERSION, MaskProfile
from trainer_core.data.pictures.augmentation import Faces
from trainer_core.data.pictures.decode import TRANSPARENT, PictureInfo
from trainer_core.data.pictures.faces import FACES_VERSION, Face, face_in_name, find_face, load_detector
from trainer_core.stages.project.verified_pictures import read_mask, read_picture
from trainer_core.store import Store
from trainer_core.types import ProgressEvent, Report

_THREADS = 4
_REMEMBER_EVERY = 200


def mask_profiles(
    pictures: Sequence[PictureFile],
    hashes: Mapping[str, str],
    infos: Mapping[str, PictureInfo],
    store: Store,
    report: Report,
) -> dict[tuple[str, bool], MaskProfile]:
    """Return where the weight of every mask lies, by its hash and whether it is an alpha channel."""
    found: dict[tuple[str, bool], MaskProfile] = {}
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
            for content, profile in _remembered(kind, paths, alpha, (store, report)):
                found[content, alpha] = profile
    return found


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
    kind = f"face {FACES_VERSION}"
    found = {content: Face(*fact) if fact else None for content, fact in store.index.facts(kind, paths).items()}
    wanted = [content for content in paths if content not in found]
    if not wanted:
        return Faces(found)
    if (detector := load_detector()) is None:
        return Faces(found, detector_missing=True)
    for start in range(0, len(wanted), _REMEMBER_EVERY):
        chunk = wanted[start : start + _REMEMBER_EVERY]
        faces = {content: find_face(detector, read_picture(paths[content], content)) for content in chunk}
        store.index.remember(kind, {content: list(face) if face else [] for content, face in faces.items()})
        found |= faces
        report(ProgressEvent("validated_dataset", start + len(chunk), len(wanted), "face"))
    return Faces(found)


def _remembered(
    kind: str, paths: Mapping[str, Path], alpha: bool, world: tuple[Store, Report]
) -> Iterator[tuple[str, MaskProfile]]:
    store, report = world
    known = store.index.facts(kind, paths)
    yield from ((content, MaskProfile.from_json(fact)) for content, fact in known.items())
    new = [content for content in paths if content not in known]
    if not new:
        return
    from trainer_core.data.pictures.mask_pixels import mask_profile

    def weigh(content: str) -> MaskProfile:
        return mask_profile(read_mask(paths[content], content, alpha))

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="mask") as pool:
        for start in range(0, len(new), _REMEMBER_EVERY):
            chunk = new[start : start + _REMEMBER_EVERY]
            profiles = dict(zip(chunk, pool.map(weigh, chunk), strict=True))
            store.index.remember(kind, {content: profile.to_json() for content, profile in profiles.items()})
            report(ProgressEvent("validated_dataset", start + len(chunk), len(new), "mask"))
            yield from profiles.items()
