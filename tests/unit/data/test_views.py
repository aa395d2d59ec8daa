"""Views: which part is cut, mirrored or not, in which colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.unit.data.helpers import build, look, pair
from trainer_core.config.groups import AugmentConfig
from trainer_core.data.pictures.buckets import cover_bucket
from trainer_core.data.pictures.color_jitter import LUMA, change_colors
from trainer_core.data.pictures.crops_and_views import (
    UNCHANGED_COLOR,
    hash_uniform,
    is_plain,
    key_parts,
    mirrored,
    random_color,
    random_crop,
    recenter_crop,
    view_geometry,
)
from trainer_core.data.pictures.crops_and_views import augmented_views as views_of_picture
from trainer_core.data.pictures.decode import to_bucket, to_view
from trainer_core.types import Bucket, Geometry, View

sides = st.integers(1, 2000)
CONTENT = "ab" * 32


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    bucket = Bucket(8 * draw(st.integers(1, 64)), 8 * draw(st.integers(1, 64)))
    return cover_bucket(draw(sides), draw(sides), bucket)


def inside(geometry: Geometry) -> bool:
    (high, wide), (height, width), (top, left) = geometry.resized, geometry.target, geometry.crop
    return 0 <= top <= high - height and 0 <= left <= wide - width


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@given(geometries(), st.integers(0, 63), st.floats(1.0, 4.0))
def test_a_random_cut_lies_inside_the_enlarged_picture(plain: Geometry, number: int, most: float) -> None:
    cut = random_crop(plain, CONTENT, number, most)
    assert inside(cut) and cut.target == plain.target and cut.original == plain.original
    assert all(plain.resized[axis] <= cut.resized[axis] <= round(plain.resized[axis] * most) + 1 for axis in (0, 1))


@given(geometries(), st.floats(0, 1), st.floats(0, 1))
def test_a_cut_around_a_point_lies_inside_and_holds_the_point(plain: Geometry, x: float, y: float) -> None:
    cut = recenter_crop(plain, x, y)
    assert inside(cut)
    (high, wide), (height, width), (top, left) = cut.resized, cut.target, cut.crop
    assert left - 1 <= x * wide <= left + width + 1
    assert top - 1 <= y * high <= top + height + 1


@given(geometries())
def test_mirrored_twice_is_plain(plain: Geometry) -> None:
    assert inside(mirrored(plain))
    assert mirrored(mirrored(plain)) == plain


@pytest.mark.setting("augment.flip")
def test_the_geometry_of_a_mirrored_view_is_where_the_cut_lies_in_the_mirror_image() -> None:
    plain = Geometry((64, 100), (64, 100), (0, 7), (64, 64))
    picture = noise(100, 64)
    view = View(plain, flip=True)
    turned = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert view_geometry(view).crop == (0, 100 - 64 - 7)
    np.testing.assert_array_equal(to_view(picture, view), to_bucket(turned, view_geometry(view)))


@pytest.mark.setting("augment.flip")
def test_flip_gives_the_plain_view_and_its_mirror_image() -> None:
    plain = cover_bucket(100, 64, Bucket(64, 64))
    cut, views = views_of_picture(plain, CONTENT, AugmentConfig(flip=True), None)
    assert cut == plain
    assert views == (View(plain), View(plain, flip=True))
    first, second = (to_view(noise(100, 64), view) for view in views)
    np.testing.assert_array_equal(first[:, ::-1], second)


@pytest.mark.setting("augment.crop", "augment.variants")
def test_random_crops_are_as_many_as_asked_for_and_the_first_ones_stay() -> None:
    plain = cover_bucket(400, 100, Bucket(96, 96))
    few = views_of_picture(plain, CONTENT, AugmentConfig(crop="random", variants=4), None)[1]
    many = views_of_picture(plain, CONTENT, AugmentConfig(crop="random", variants=9), None)[1]
    assert (len(few), len(many)) == (4, 9) and many[:4] == few
    assert len({view.geometry.crop for view in many}) == 9
    other = views_of_picture(plain, "cd" * 32, AugmentConfig(crop="random", variants=4), None)[1]
    assert other != few


@pytest.mark.setting("augment.variants", "augment.flip")
def test_variants_are_mirrored_too() -> None:
    plain = cover_bucket(400, 100, Bucket(96, 96))
    views = views_of_picture(plain, CONTENT, AugmentConfig(crop="random", variants=3, flip=True), None)[1]
    assert [view.flip for view in views] == [False] * 3 + [True] * 3
    assert [view.geometry for view in views[:3]] == [view.geometry for view in views[3:]]


def test_a_picture_of_its_buckets_shape_has_nothing_to_cut_and_one_view() -> None:
    plain = cover_bucket(64, 64, Bucket(64, 64))
    assert views_of_picture(plain, CONTENT, AugmentConfig(crop="random"), None) == (plain, ())


@pytest.mark.setting("augment.crop_scale")
def test_crop_scale_enlarges_by_factors_over_the_whole_range() -> None:
    plain = cover_bucket(64, 64, Bucket(64, 64))
    heights = [random_crop(plain, CONTENT, number, 2.0).resized[0] for number in range(400)]
    assert 64 <= min(heights) < 68 and 124 < max(heights) <= 128
    assert 92 < sum(heights) / len(heights) < 100


@pytest.mark.setting("augment.crop")
def test_random_crops_are_spread_evenly() -> None:
    plain = cover_bucket(300, 100, Bucket(104, 104))
    lefts = [random_crop(plain, CONTENT, number, 1.0).crop[1] for number in range(2000)]
    margin = plain.resized[1] - 104
    counts = np.histogram(lefts, bins=8, range=(0, margin + 1))[0]
    # Eight equal shares of 2000, each within five standard deviations.
    assert np.abs(counts - 250).max() < 5 * (2000 / 8 * 7 / 8) ** 0.5


def test_numbers_depend_on_what_they_are_for() -> None:
    drawn = {hash_uniform(what, content, number) for what in "ab" for content in "ab" for number in range(3)}
    assert len(drawn) == 12 and all(0 <= one < 1 for one in drawn)


@pytest.mark.setting("augment.color")
def test_colours_keep_to_their_strength() -> None:
    drawn = np.array([random_color(CONTENT, number, 0.3) for number in range(500)])
    assert np.abs(drawn[:, :3] - 1.0).max() <= 0.3 and np.abs(drawn[:, 3]).max() <= 0.15
    assert np.abs(drawn[:, :3] - 1.0).max() > 0.29 and np.abs(drawn[:, 3]).max() > 0.145


@pytest.mark.setting("augment.color")
def test_colour_changes_follow_their_definitions() -> None:
    pixels = np.asarray(noise(16, 12).convert("RGB"))
    values = pixels.astype(np.float64)
    luma = values @ np.array(LUMA)
    expected = {
        (0.5, 1.0, 1.0, 0.0): values * 0.5,
        (1.0, 0.5, 1.0, 0.0): luma.mean() + (values - luma.mean()) * 0.5,
        (1.0, 1.0, 0.5, 0.0): luma[..., None] + (values - luma[..., None]) * 0.5,
        (1.0, 1.0, 0.0, 0.0): np.repeat(luma[..., None], 3, -1),
    }
    for color, wanted in expected.items():
        assert np.abs(change_colors(pixels, color).astype(np.float64) - wanted).max() <= 0.51
    np.testing.assert_array_equal(change_colors(pixels, UNCHANGED_COLOR), pixels)


@pytest.mark.setting("augment.color")
def test_a_turned_hue_keeps_the_luma_and_comes_back() -> None:
    # Mild colours, so that nothing is cut off at 0 or 255.
    pixels = (np.asarray(noise(16, 12)) // 8 + 112).astype(np.uint8)
    turned = change_colors(pixels, (1.0, 1.0, 1.0, 0.3))
    assert np.abs(turned.astype(int) - pixels).max() > 5
    assert np.abs((turned.astype(float) - pixels) @ np.array(LUMA)).max() < 1.0
    assert np.abs(change_colors(turned, (1.0, 1.0, 1.0, -0.3)).astype(int) - pixels).max() <= 2


def test_the_key_of_a_plain_view_has_nothing_new() -> None:
    plain = cover_bucket(100, 64, Bucket(64, 64))
    assert key_parts(View(plain)) == {}
    assert key_parts(View(plain, flip=True)) == {"flip": 1}
    assert key_parts(View(plain, color=(1.1, 1.0, 1.0, 0.0))) == {"color": [1, 1.1, 1.0, 1.0, 0.0]}


@pytest.mark.parametrize(
    ("settings", "plain"),
    [({}, True), ({"variants": 9}, True), ({"flip": True}, False), ({"color": 0.1}, False), ({"crop": "face"}, False)],
)
def test_the_usual_settings_give_no_views(settings: dict[str, object], plain: bool) -> None:
    assert is_plain(AugmentConfig.model_validate(settings)) is plain


@pytest.mark.setting("augment.flip", "augment.crop")
def test_held_out_pictures_are_seen_whole_and_plain(tmp_path: Path) -> None:
    for number in range(10):
        pair(tmp_path, f"{number}.png", colour=(number, 0, 0))
    manifest = build(look(tmp_path, held_out=0.3), flip=True)
    plain = build(look(tmp_path, held_out=0.3))
    assert {sample.split: len(sample.views) for sample in manifest.samples} == {"train": 2, "held_out": 0}
    assert all(not sample.views for sample in plain.samples)
    assert manifest.data_version != plain.data_version
    told = [str(finding) for finding in manifest.findings]
    assert any("7 picture(s) have 2 views each: 14 latents" in text for text in told)


def test_views_depend_on_content_not_on_names(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 160, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a cat")
    before = build(look(tmp_path, held_out=0), crop="random").samples[0].views
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert build(look(tmp_path, held_out=0), crop="random").samples[0].views == before
    assert len(before) > 1


@pytest.mark.setting("augment.flip")
def test_sdxl_is_told_where_the_mirrored_cut_lies() -> None:
    from trainer_core.families.models.sdxl import time_ids

    plain = Geometry((64, 200), (64, 200), (0, 30), (64, 96))
    told = time_ids([view_geometry(View(plain)), view_geometry(View(plain, flip=True))]).tolist()
    assert told == [[64, 200, 0, 30, 64, 96], [64, 200, 0, 74, 64, 96]]
