"""Masks: which picture they belong to, whether they fit, and what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.unit.data.helpers import SMALL_BUCKETS, build, draw, ids, look, pair, reasons, texts
from trainer_core.config.groups import DatasetConfig
from trainer_core.data.discovery.discover import folder_fingerprint
from trainer_core.data.pictures.buckets import cover_bucket
from trainer_core.data.pictures.mask_crop import BINS, MaskProfile, best_window_start, crop_around_mask
from trainer_core.data.pictures.mask_pixels import load_mask, mask_profile, to_latent_mask
from trainer_core.errors import DatasetError
from trainer_core.types import Bucket, Geometry, View


def dataset(folder: Path, names: tuple[str, ...] = ("a.png", "b.png", "sub/c.png")) -> Path:
    for number, name in enumerate(names):
        pair(folder / "pictures", name, colour=(number, 0, 0))
    return folder / "pictures"


def grey(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


@pytest.mark.setting("datasets.mask_path")
def test_masks_are_matched_by_relative_name_without_its_ending(tmp_path: Path) -> None:
    pictures = dataset(tmp_path)
    draw(tmp_path / "masks" / "a.jpg")
    draw(tmp_path / "masks" / "sub" / "c-masklabel.png")
    draw(tmp_path / "masks" / "c.png")
    found = look(pictures, mask_path=tmp_path / "masks", held_out=0)
    masks = {one.id: one.mask.path.name if one.mask else None for one in found.pictures}
    assert masks == {"set/a.png": "a.jpg", "set/b.png": None, "set/sub/c.png": "c-masklabel.png"}
    assert "2 of 3 pictures have a mask" in texts(found.findings, "info")
    assert "1 mask(s) have no picture of their name" in texts(found.findings, "warning")


@pytest.mark.setting("datasets.mask_path")
def test_masks_beside_the_pictures_are_those_with_onetrainers_name(tmp_path: Path) -> None:
    pictures = dataset(tmp_path, ("a.png", "b.png"))
    draw(pictures / "a-masklabel.png")
    without = look(pictures)
    assert reasons(without)["set/a-masklabel.png"].startswith("mask")
    found = look(pictures, mask_path=pictures)
    assert ids(found) == ["set/a.png", "set/b.png"] and not found.excluded
    assert [one.mask is not None for one in found.pictures] == [True, False]


def test_a_mask_folder_inside_the_dataset_is_not_trained_on(tmp_path: Path) -> None:
    pictures = dataset(tmp_path, ("a.png",))
    draw(pictures / "masks" / "a.png")
    assert ids(look(pictures, mask_path=pictures / "masks")) == ["set/a.png"]


def test_two_masks_of_one_picture_are_an_error(tmp_path: Path) -> None:
    pictures = dataset(tmp_path, ("a.png",))
    draw(tmp_path / "masks" / "a.png")
    draw(tmp_path / "masks" / "a.jpg")
    assert "1 mask(s) are there twice" in texts(look(pictures, mask_path=tmp_path / "masks").findings, "error")


def test_a_missing_mask_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder of masks"):
        look(dataset(tmp_path), mask_path=tmp_path / "nowhere")


def test_a_mask_of_the_same_shape_fits_and_one_of_another_leaves_its_picture_out(tmp_path: Path) -> None:
    pictures = dataset(tmp_path, ("a.png", "b.png", "c.png"))
    draw(tmp_path / "masks" / "a.png", (32, 32))
    draw(tmp_path / "masks" / "b.png", (64, 48))
    (tmp_path / "masks" / "c.png").write_bytes(b"nothing")
    manifest = build(look(pictures, mask_path=tmp_path / "masks", held_out=0))
    assert [sample.id for sample in manifest.samples] == ["set/a.png"]
    assert reasons(manifest) == {
        "set/b.png": "mask of another shape: b.png is 64x48, its picture 64x64",
        "set/c.png": "mask not a picture: c.png: " + reasons(manifest)["set/c.png"].partition("c.png: ")[2],
    }


def test_a_mask_scaled_down_by_any_factor_fits(tmp_path: Path) -> None:
    draw(tmp_path / "pictures" / "a.png", (97, 61))
    (tmp_path / "pictures" / "a.txt").write_text("a cat")
    for factor in (2, 3, 4, 5):
        draw(tmp_path / "masks" / "a.png", (round(97 / factor), round(61 / factor)))
        manifest = build(look(tmp_path / "pictures", mask_path=tmp_path / "masks", held_out=0))
        assert len(manifest.samples) == 1


@pytest.mark.setting("datasets.mask_path")
def test_the_data_version_moves_with_a_mask_and_held_out_pictures_have_none(tmp_path: Path) -> None:
    pictures = dataset(tmp_path, tuple(f"{number}.png" for number in range(6)))
    for number in range(6):
        grey(tmp_path / "masks" / f"{number}.png", np.full((64, 64), 200 + number))
    settings: dict[str, Any] = {"mask_path": tmp_path / "masks", "held_out": 0.2}
    before = build(look(pictures, **settings))
    assert {sample.split: sample.mask is None for sample in before.samples} == {"train": False, "held_out": True}
    assert build(look(pictures, held_out=0.2)).data_version != before.data_version
    changed = next(sample for sample in before.samples if sample.mask is not None)
    grey(tmp_path / "masks" / changed.path.name, np.full((64, 64), 100))
    assert build(look(pictures, **settings)).data_version != before.data_version


@pytest.mark.setting("datasets.mask_path")
def test_black_masks_are_named(tmp_path: Path) -> None:
    pictures = dataset(tmp_path, ("a.png", "b.png"))
    grey(tmp_path / "masks" / "a.png", np.zeros((64, 64)))
    grey(tmp_path / "masks" / "b.png", np.full((64, 64), 255))
    manifest = build(look(pictures, mask_path=tmp_path / "masks", held_out=0))
    assert "1 mask(s) are black, so nothing of the picture is trained: set/a.png" in texts(manifest.findings, "warning")
    assert "2 of 2 pictures are trained by their mask, which shows 50%" in texts(manifest.findings, "info")


@pytest.mark.setting("datasets.alpha_mask")
def test_the_alpha_channel_is_the_mask_where_it_hides_something(tmp_path: Path) -> None:
    pixels = np.full((64, 64, 4), 255, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    pixels[:32, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "half.png")
    draw(tmp_path / "plain.png", colour=(1, 2, 3))
    for name in ("whole", "half", "plain"):
        (tmp_path / f"{name}.txt").write_text("a cat")
    manifest = build(look(tmp_path, alpha_mask=True, held_out=0))
    masks = {sample.id: sample.mask for sample in manifest.samples}
    assert masks["set/whole.png"] is None and masks["set/plain.png"] is None
    assert (half := masks["set/half.png"]) is not None and half.alpha
    image = load_mask(half.path, alpha=True)
    values = to_latent_mask(image, View(cover_bucket(64, 64, Bucket(64, 64))), 8)
    assert values[:4].max() == 0.0 and values[4:].min() == 1.0
    assert build(look(tmp_path, held_out=0)).data_version != manifest.data_version


def test_a_mask_file_goes_before_the_alpha_channel(tmp_path: Path) -> None:
    pictures = dataset(tmp_path, ("a.png", "b.png"))
    draw(tmp_path / "masks" / "a.png")
    found = look(pictures, mask_path=tmp_path / "masks", alpha_mask=True)
    assert [one.mask.alpha if one.mask else None for one in found.pictures] == [False, True]


def test_the_alpha_channel_is_turned_as_the_picture_is(tmp_path: Path) -> None:
    pixels = np.full((40, 64, 4), 255, np.uint8)
    pixels[:, :32, 3] = 0
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    mask = np.asarray(load_mask(tmp_path / "a.png", alpha=True))
    # Orientation 6: the left of the file is the top of the picture.
    assert mask.shape == (64, 40) and mask[:32].max() == 0 and mask[32:].min() == 255


@pytest.mark.setting("datasets.mask_path")
def test_what_a_sensor_sees_moves_with_a_mask(tmp_path: Path) -> None:
    pictures = dataset(tmp_path)
    mask = draw(tmp_path / "masks" / "a.png")
    config = DatasetConfig(path=pictures, mask_path=tmp_path / "masks")
    before = folder_fingerprint([config])
    draw(mask, (32, 64))
    assert folder_fingerprint([config]) != before


@given(st.integers(0, 2**32 - 1), st.sampled_from([(64, 64), (64, 128), (96, 64)]))
def test_bringing_a_mask_to_the_latents_keeps_its_mean(seed: int, size: tuple[int, int]) -> None:
    width, height = size
    values = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    plain = cover_bucket(width, height, Bucket(width, height))
    small = to_latent_mask(Image.fromarray(values), View(plain), 8)
    assert small.shape == (height // 8, width // 8) and small.dtype == np.float32
    assert abs(float(small.mean()) - values.mean() / 255) < 1e-6
    mirrored = to_latent_mask(Image.fromarray(values), View(plain, flip=True), 8)
    np.testing.assert_array_equal(mirrored[:, ::-1], small)


def test_a_mask_is_cut_where_its_picture_is() -> None:
    values = np.zeros((64, 128), np.uint8)
    values[:, 32:96] = 255
    image = Image.fromarray(values)
    middle = Geometry((64, 128), (64, 128), (0, 32), (64, 64))
    left = Geometry((64, 128), (64, 128), (0, 0), (64, 64))
    assert to_latent_mask(image, View(middle), 16).min() == 1.0
    np.testing.assert_array_equal(to_latent_mask(image, View(left), 16)[0], [0, 0, 1, 1])


def test_a_mask_of_half_the_size_is_scaled_with_its_picture() -> None:
    values = np.zeros((32, 32), np.uint8)
    values[:16] = 255
    small = to_latent_mask(Image.fromarray(values), View(cover_bucket(64, 64, Bucket(64, 64))), 8)
    np.testing.assert_array_equal(small[:, 0], [1, 1, 1, 1, 0, 0, 0, 0])


@pytest.mark.setting("augment.crop")
def test_a_cut_around_a_mask_keeps_all_of_it_where_it_can() -> None:
    values = np.zeros((64, 200), np.uint8)
    values[20:40, 150:180] = 255
    profile = mask_profile(Image.fromarray(values))
    cut = crop_around_mask(cover_bucket(200, 64, Bucket(64, 64)), profile)
    assert cut.crop[1] <= 150 and cut.crop[1] + 64 >= 180
    assert abs(cut.crop[1] + 32 - 165) <= 2


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(0, 60))
def test_no_other_place_keeps_more_of_a_mask(seed: int, window: int, margin: int) -> None:
    length = window + margin
    weights = np.random.default_rng(seed).random(BINS) * (np.random.default_rng(seed + 1).random(BINS) < 0.3)
    if not weights.sum():
        weights[3] = 1.0
    shares = tuple(np.concatenate([[0.0], np.cumsum(weights / weights.sum())]).tolist())
    start = best_window_start(shares, length, window)
    assert 0 <= start <= margin
    before = np.interp(np.arange(length + 1) / length, np.linspace(0, 1, BINS + 1), shares)
    kept = [before[place + window] - before[place] for place in range(margin + 1)]
    # Places are tried at the edges of 64ths only, rounded to pixels.
    assert kept[start] >= max(kept) - 1.5 / length * BINS * float(max(np.diff(shares))) - 1e-5


def test_a_black_mask_moves_no_cut() -> None:
    plain = cover_bucket(200, 64, Bucket(64, 64))
    assert crop_around_mask(plain, mask_profile(Image.fromarray(np.zeros((64, 200), np.uint8)))) == plain


@pytest.mark.setting("augment.crop")
def test_pictures_without_a_mask_are_cut_at_the_centre_and_named(tmp_path: Path) -> None:
    for name in "ab":
        draw(tmp_path / "pictures" / f"{name}.png", (200, 64), (ord(name), 0, 0))
        (tmp_path / "pictures" / f"{name}.txt").write_text("a cat")
    values = np.zeros((64, 200))
    values[:, :20] = 255
    grey(tmp_path / "masks" / "a.png", values)
    found = look(tmp_path / "pictures", mask_path=tmp_path / "masks", held_out=0)
    square = SMALL_BUCKETS.model_copy(update={"table": "square"})
    centre = build(found, bucket=square).samples[0].geometry
    masked, plain = build(found, bucket=square, crop="mask").samples
    assert masked.geometry.crop[1] == 0 < centre.crop[1]
    assert plain.geometry == centre and not masked.views and not plain.views
    assert "1 picture(s) have no mask and are cut at the centre: set/b.png" in texts(
        build(found, crop="mask").findings, "warning"
    )


def test_a_profile_survives_json() -> None:
    profile = mask_profile(Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)))
    assert MaskProfile.from_json(profile.to_json()) == profile
