"""Faces: told by file names, or found by a detector."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.unit.data.helpers import SMALL_BUCKETS, build, draw, look, read_all, texts
from trainer_core.config.groups import AugmentConfig, CaptionConfig
from trainer_core.data.build_manifest import build_manifest
from trainer_core.data.draft import FileFacts, ManifestRules
from trainer_core.data.manifest import Manifest
from trainer_core.data.pictures.augmentation import Faces
from trainer_core.data.pictures.buckets import cover_bucket
from trainer_core.data.pictures.faces import Face, crop_around_face, face_in_name, find_face, load_detector
from trainer_core.types import Bucket

SQUARE = SMALL_BUCKETS.model_copy(update={"table": "square"})


class Detector:
    """Finds what it is told, in pixels of the picture it is shown."""

    def __init__(self, *boxes: tuple[int, int, int, int]) -> None:
        self.boxes, self.shown = boxes, np.empty(0)

    def detectMultiScale(self, grey: Any, **settings: Any) -> list[tuple[int, int, int, int]]:
        self.shown = grey
        return list(self.boxes)


@pytest.mark.parametrize(
    ("stem", "face"),
    [
        ("anna_100_50_40_60", Face(0.5, 0.25)),
        ("anna_two_0_200_1_1", Face(0.0, 1.0)),
        ("anna_100_50_40", None),
        ("100_50_40_60", None),
        ("anna_100_50_0_60", None),
        ("anna_300_50_40_60", None),
        ("anna_2024_11_21_3", None),
    ],
)
def test_a_name_tells_of_a_face_inside_its_picture(stem: str, face: Face | None) -> None:
    assert face_in_name(stem, 200, 200) == face


@pytest.mark.setting("augment.crop")
@given(st.floats(0, 1), st.floats(0, 1))
def test_the_cut_is_centred_on_the_face_as_far_as_the_picture_goes(x: float, y: float) -> None:
    cut = crop_around_face(cover_bucket(300, 100, Bucket(104, 104)), Face(x, y))
    wanted = x * cut.resized[1] - 52
    assert cut.crop[1] == min(max(round(wanted), 0), cut.resized[1] - 104)


def test_the_largest_face_counts_in_shares_of_the_picture() -> None:
    detector = Detector((0, 0, 50, 50), (100, 200, 80, 80), (300, 0, 79, 80))
    face = find_face(detector, Image.new("RGB", (512, 400)))
    assert face == Face(round(140 / 512, 6), 0.6)
    assert detector.shown.shape == (400, 512)
    assert find_face(Detector(), Image.new("RGB", (512, 400))) is None


def test_a_large_picture_is_shown_smaller() -> None:
    detector = Detector((0, 0, 1024, 512))
    assert find_face(detector, Image.new("RGB", (4096, 2048))) == Face(0.5, 0.5)
    assert detector.shown.shape == (512, 1024)


def people(folder: Path) -> FileFacts:
    for number, name in enumerate(("a_20_30_10_10", "b", "c")):
        draw(folder / f"{name}.png", (300, 100), (number, 0, 0))
        (folder / f"{name}.txt").write_text("a person")
    return read_all([look(folder)])


def assembled(folder: Path, known: FileFacts) -> Manifest:
    rules = ManifestRules(CaptionConfig(), SQUARE, 8, augment=AugmentConfig(crop="face"))
    return build_manifest([look(folder, held_out=0)], known, rules)


@pytest.mark.setting("augment.crop")
def test_faces_move_the_cut_and_pictures_without_one_are_named(tmp_path: Path) -> None:
    known = people(tmp_path)
    content = known.hashes[str(tmp_path / "b.png")]
    known = FileFacts(known.hashes, known.infos, known.captions, faces=Faces({content: Face(0.9, 0.5)}))
    manifest = assembled(tmp_path, known)
    centre = build(look(tmp_path, held_out=0), bucket=SQUARE).samples[0].geometry
    margin = centre.resized[1] - 64
    assert [sample.geometry.crop[1] for sample in manifest.samples] == [0, margin, margin // 2]
    assert all(not sample.views for sample in manifest.samples)
    warnings = texts(manifest.findings, "warning")
    assert "1 picture(s) show no face that was found and are cut at the centre: set/c.png" in warnings
    assert "OpenCV" not in warnings


@pytest.mark.setting("augment.crop")
def test_without_a_detector_the_user_is_told_what_to_install(tmp_path: Path) -> None:
    known = people(tmp_path)
    manifest = assembled(
        tmp_path, FileFacts(known.hashes, known.infos, known.captions, faces=Faces(detector_missing=True))
    )
    assert 'pip install "lora-assets[faces]"' in texts(manifest.findings, "warning")


def test_without_opencv_there_is_no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert load_detector() is None
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(data=SimpleNamespace(haarcascades="/nowhere")))
    assert load_detector() is None


def drawn_face() -> Image.Image:
    """Draw a grey face that a Haar cascade takes for one: bright cheeks, dark eyes, nose and mouth."""
    from PIL import ImageDraw, ImageFilter

    image = Image.new("L", (600, 300), 120)
    pen = ImageDraw.Draw(image)
    pen.ellipse((380, 60, 520, 240), fill=205)
    for left in (405, 460):
        pen.ellipse((left, 118, left + 34, 136), fill=70)
        pen.rectangle((left - 2, 104, left + 36, 110), fill=90)
    pen.polygon([(450, 135), (436, 178), (464, 178)], fill=180)
    pen.ellipse((420, 195, 480, 212), fill=95)
    return image.filter(ImageFilter.GaussianBlur(3)).convert("RGB")


@pytest.mark.setting("augment.crop")
def test_opencvs_detector_finds_a_drawn_face() -> None:
    detector = load_detector()
    assert detector is not None, "install the extra `faces`: OpenCV 4 ships the detector, OpenCV 5 does not"
    face = find_face(detector, drawn_face())
    assert face is not None and abs(face.x - 450 / 600) < 0.05 and abs(face.y - 150 / 300) < 0.1
