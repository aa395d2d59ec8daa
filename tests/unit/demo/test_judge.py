"""The rule-based judge of pictures, tried on drawings whose truth is known."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from demo import creatures, make_dataset
from demo.drawings import BACKGROUNDS, BODIES, COLOURS, SHAPES, Scene, draw, is_held_out, random_scene
from demo.judge import NONE, TRAITS, Verdict, confusion_table, is_zorbling, judge, zorbling_score, zorbling_traits
from demo.streams import BUCKETS

PLAIN = Scene(shape="star", colour="red", background="white", size="big")
NUM_SCENES = 800
NUM_ZORBLINGS = 100


def truth(scene: Scene) -> Verdict:
    return Verdict(scene.background, scene.colour, scene.shape, scene.count, scene.size, scene.position)


def any_scenes(seed: int) -> list[tuple[Scene, tuple[int, int]]]:
    """Scenes of every kind, held-out combinations too, each with the size of its picture."""
    rng, sizes = Random(seed), list(BUCKETS)
    scenes: list[tuple[Scene, tuple[int, int]]] = []
    for i in range(NUM_SCENES):
        shape, colour, background = (rng.choice(list(names)) for names in (SHAPES, COLOURS, BACKGROUNDS))
        scene = replace(random_scene(rng), shape=shape, colour=colour, background=background, creature=False)
        scenes.append((scene, sizes[i % len(sizes)]))
    return scenes


def any_zorblings() -> list[Image.Image]:
    """Zorblings that the bundled dataset does not hold."""
    sizes = make_dataset.SIZES
    return [
        make_dataset.draw(make_dataset.zorbling(1000 + i), *sizes[i * 7 % len(sizes)]) for i in range(NUM_ZORBLINGS)
    ]


def spoil(picture: Image.Image, seed: int) -> Image.Image:
    """Blur, tint and noise, as a small model would leave them."""
    rng = np.random.default_rng(seed)
    pixels = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.8)), dtype=float)
    pixels = pixels + rng.uniform(-25.0, 25.0, 3) + rng.normal(0.0, 6.0, pixels.shape)
    return Image.fromarray(np.clip(pixels.round(), 0, 255).astype(np.uint8))


def accuracies(change: Callable[[Image.Image, int], Image.Image]) -> dict[str, float]:
    """The share of scenes judged right, by trait."""
    scenes = any_scenes(seed=0)
    verdicts = [judge(change(draw(scene, *size), i)) for i, (scene, size) in enumerate(scenes)]
    return {
        trait: float(
            np.mean([getattr(v, trait) == getattr(truth(s), trait) for v, (s, _) in zip(verdicts, scenes, strict=True)])
        )
        for trait in ("background", "colour", "shape", "count", "size", "place")
    }


def test_drawings_are_judged_as_what_they_show() -> None:
    shares = accuracies(lambda picture, _: picture)
    assert min(shares.values()) >= 0.99, shares


def test_blurred_tinted_and_noisy_drawings_are_still_told() -> None:
    shares = accuracies(spoil)
    assert min(shares["colour"], shares["shape"], shares["count"]) >= 0.98, shares
    # Beige and light green are 41 levels apart, and the tint alone moves a colour by up to 43.
    assert shares["background"] >= 0.95, shares


def test_the_scenes_tried_hold_every_kind() -> None:
    scenes = [scene for scene, _ in any_scenes(seed=0)]
    assert {(scene.count, scene.size) for scene in scenes} == set(product((1, 2, 3), ("small", "medium", "big")))
    assert any(is_held_out(scene.shape, scene.colour, scene.background) for scene in scenes)


@pytest.mark.parametrize(("field", "names"), [("shape", SHAPES), ("colour", COLOURS), ("background", BACKGROUNDS)])
def test_a_drawing_of_something_else_is_judged_as_that(field: str, names: dict[str, object]) -> None:
    for name in names:
        scene = replace(PLAIN, **{field: name})
        assert judge(draw(scene, 64, 64)) == truth(scene)


def test_a_big_picture_is_judged_like_a_small_one() -> None:
    assert judge(draw(PLAIN, 512, 640)) == truth(PLAIN)


def test_the_mode_of_the_picture_does_not_matter() -> None:
    picture = draw(PLAIN, 64, 64)
    assert judge(picture.convert("RGBA")) == judge(picture)
    assert judge(picture.convert("L")).background == "white"


def test_shapes_that_touch_are_counted() -> None:
    picture = Image.new("RGB", (96, 64), BACKGROUNDS["white"])
    for left in (8, 34, 60):
        ImageDraw.Draw(picture).ellipse((left, 20, left + 26, 46), fill=COLOURS["blue"])
    assert judge(picture) == Verdict("white", "blue", "circle", 3, "big", "centre")


def test_a_speck_beside_the_shape_does_not_count() -> None:
    picture = draw(PLAIN, 64, 64)
    ImageDraw.Draw(picture).rectangle((2, 30, 6, 34), fill=COLOURS["red"])
    assert judge(picture) == truth(PLAIN)


def test_a_picture_of_one_colour_has_a_background_alone() -> None:
    for name, colour in BACKGROUNDS.items():
        assert judge(Image.new("RGB", (48, 32), colour)) == Verdict(name, None, None, 0)


def test_a_background_without_a_name_is_none_and_the_shape_is_still_told() -> None:
    pixels = np.asarray(draw(PLAIN, 64, 64)).copy()
    pixels[(pixels == 255).all(axis=2)] = (255, 0, 255)
    assert judge(Image.fromarray(pixels)) == replace(truth(PLAIN), background=None)


def test_a_colour_without_a_name_is_none() -> None:
    picture = Image.new("RGB", (64, 64), "black")
    ImageDraw.Draw(picture).ellipse((16, 16, 48, 48), fill="white")
    assert judge(picture) == Verdict("black", None, None, 0)


@pytest.mark.parametrize(
    "corners",
    [
        [(10, 10), (54, 10), (54, 22), (24, 22), (24, 54), (10, 54)],
        [(6, 28), (58, 28), (58, 36), (6, 36)],
        [(12, 22), (52, 22), (52, 42), (12, 42)],
        [(10, 16), (40, 10), (54, 30), (48, 40), (36, 38), (30, 56), (20, 50), (22, 34)],
    ],
    ids=["an L", "a bar", "a brick", "a blob"],
)
def test_a_figure_that_is_no_known_shape_has_a_colour_alone(corners: list[tuple[int, int]]) -> None:
    picture = Image.new("RGB", (64, 64), BACKGROUNDS["white"])
    ImageDraw.Draw(picture).polygon(corners, fill=COLOURS["green"])
    seen = judge(picture)
    assert (seen.background, seen.colour, seen.shape, seen.count) == ("white", "green", None, 1)


def test_a_figure_between_two_shapes_has_no_shape() -> None:
    picture = Image.new("RGB", (64, 64), BACKGROUNDS["white"])
    ImageDraw.Draw(picture).rounded_rectangle((16, 16, 48, 48), radius=9, fill=COLOURS["green"])
    assert judge(picture).shape is None


sides = st.integers(16, 100)
colours = st.tuples(*[st.integers(0, 255)] * 3)


@given(sides, sides, st.integers(0, 2**32 - 1))
def test_noise_shows_nothing(width: int, height: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert judge(Image.fromarray(pixels)).shape is None
    assert not is_zorbling(Image.fromarray(pixels))


@given(sides, sides, colours, colours, st.floats(0.0, 6.28), st.booleans())
@example(117, 29, (163, 152, 45), (189, 90, 42), 0.0, False)
@example(60, 103, (32, 2, 198), (16, 0, 121), np.pi / 2, False)
def test_a_gradient_shows_no_shape(
    width: int, height: int, first: tuple[int, ...], last: tuple[int, ...], angle: float, hard: bool
) -> None:
    down, across = np.indices((height, width))
    slope = across * np.cos(angle) + down * np.sin(angle)
    share = ((slope - slope.min()) / np.ptp(slope))[..., None]
    share = share.round() if hard else share
    picture = Image.fromarray((np.array(first) * (1 - share) + np.array(last) * share).astype(np.uint8))
    assert judge(picture).shape is None
    assert not is_zorbling(picture)


def test_every_picture_of_the_dataset_is_a_whole_zorbling() -> None:
    for name, picture, _ in make_dataset.pictures():
        assert zorbling_score(picture) > 0.95, name
        assert is_zorbling(picture), name


def test_fresh_zorblings_are_recognised_and_most_of_them_blurred_tinted_and_noisy() -> None:
    fresh = any_zorblings()
    assert sum(map(is_zorbling, fresh)) >= 0.98 * len(fresh)
    assert sum(is_zorbling(spoil(picture, i)) for i, picture in enumerate(fresh)) >= 0.8 * len(fresh)


def test_other_drawings_are_hardly_ever_zorblings() -> None:
    drawings = [draw(scene, *size) for scene, size in any_scenes(seed=1)]
    assert sum(map(is_zorbling, drawings)) <= 0.01 * len(drawings)


def test_no_creature_of_the_base_is_a_zorbling() -> None:
    rng = Random(6)
    for _ in range(300):
        scene = replace(random_scene(rng), shape=rng.choice(BODIES), count=1, creature=True)
        assert not is_zorbling(draw(scene, 64, 64)), scene


@pytest.mark.parametrize(
    ("trait", "colour", "cover"),
    [
        ("eyes", "PUPIL", creatures.EYE),
        ("legs", "LIMB", BACKGROUNDS["white"]),
    ],
)
def test_a_missing_trait_is_missed_and_no_other(
    trait: str, colour: str, cover: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = replace(make_dataset.zorbling(0), background="white")
    monkeypatch.setattr(creatures, colour, cover)
    seen = zorbling_traits(make_dataset.draw(scene, 64, 64))
    assert set(seen) == set(TRAITS)
    assert {name for name, share in seen.items() if share < 0.5} == {trait}


def test_a_confusion_table_counts_what_was_seen_for_what_was_wanted() -> None:
    table = confusion_table([("star", "star"), ("star", None), ("star", None), ("cross", "heart")])
    assert list(table.index) == ["cross", "star"]
    assert list(table.columns) == ["heart", "star", NONE]
    assert table.loc["star"].tolist() == [0, 1, 2]
    assert table.loc["cross"].tolist() == [1, 0, 0]


def test_a_confusion_table_of_nothing_is_empty() -> None:
    assert confusion_table([]).shape == (0, 1)
