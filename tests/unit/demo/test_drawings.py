"""The procedural drawings and their captions."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from demo.captions import FEATURES, caption, plural
from demo.creatures import EYE, LIMB, PUPIL
from demo.drawings import (
    BACKGROUNDS,
    BODIES,
    COLOURS,
    SHAPES,
    Scene,
    draw,
    held_out_combinations,
    is_held_out,
    random_scene,
)

SCENE = Scene(shape="star", colour="red", background="white")


def test_the_same_scene_gives_the_same_pixels() -> None:
    first, second = draw(SCENE, 64, 48), draw(SCENE, 64, 48)
    assert first.size == (64, 48)
    assert first.tobytes() == second.tobytes()


def test_the_same_seed_gives_the_same_stream() -> None:
    def stream() -> list[tuple[Scene, str]]:
        rng = Random(7)
        return [(scene, caption(scene, rng)) for scene in (random_scene(rng) for _ in range(50))]

    assert stream() == stream()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_drawing_shows_its_colour_on_its_background(shape: str) -> None:
    pixels = np.asarray(draw(replace(SCENE, shape=shape, colour="blue"), 64, 64)).reshape(-1, 3)
    shares = {
        name: float((abs(pixels.astype(int) - colour).max(axis=1) < 4).mean())
        for name, colour in (("ink", COLOURS["blue"]), ("paper", BACKGROUNDS["white"]))
    }
    assert 0.05 < shares["ink"] < 0.4
    assert shares["paper"] > 0.55


@pytest.mark.parametrize("shape", BODIES)
def test_a_creature_has_the_eyes_and_the_legs_of_its_kind(shape: str) -> None:
    pixels = np.asarray(draw(replace(SCENE, shape=shape, background="grey", size="big", creature=True), 64, 64))
    for colour in (EYE, PUPIL, LIMB, COLOURS["red"]):
        assert (abs(pixels.astype(int) - colour).max(axis=2) < 8).sum() >= 8, colour


def test_nothing_leaves_the_picture() -> None:
    rng = Random(4)
    for _ in range(200):
        scene = random_scene(rng)
        pixels = np.asarray(draw(scene, 64, 64)).astype(int)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        far = abs(border - BACKGROUNDS[scene.background]).max(axis=1) > 8
        # a row of three touches both sides; of other shapes a corner may reach into the outermost pixels
        assert far.mean() <= (0.12 if scene.count == 3 else 0.01), scene


def test_position_moves_the_shape() -> None:
    for position, axis, low in (("left", 1, True), ("right", 1, False), ("top", 0, True)):
        pixels = np.asarray(draw(replace(SCENE, size="small", position=position), 80, 64)).min(2)
        centre = float(np.argwhere(pixels < 200)[:, axis].mean()) / pixels.shape[axis]
        assert (centre < 0.4) is low, position


def test_count_draws_that_many_shapes() -> None:
    for count in (1, 2, 3):
        scene = replace(SCENE, shape="square", count=count)
        row = np.asarray(draw(scene, 96, 64)).min(2)[32] < 128
        assert int((row[1:] & ~row[:-1]).sum()) == count


def test_captions_name_the_colour_the_shape_and_the_background() -> None:
    rng = Random(1)
    for _ in range(300):
        scene = random_scene(rng)
        text = caption(scene, rng)
        name = scene.shape if scene.count == 1 else plural(scene.shape)
        assert f"{scene.colour} {name}" in text
        assert f"{scene.background} background" in text
        assert (FEATURES in text) is scene.creature
        assert "  " not in text
        assert text == text.strip()


def test_captions_tell_every_size_and_place_that_is_not_the_middle() -> None:
    rng = Random(3)
    for _ in range(300):
        scene = random_scene(rng)
        text = caption(scene, rng)
        words = set(text.replace(",", "").split())
        assert bool(words & {"small", "little", "tiny"}) is (scene.size == "small")
        assert bool(words & {"big", "large"}) is (scene.size == "big")
        for place in ("left", "right", "top", "bottom"):
            assert (place in words) is (scene.position == place)


def test_held_out_combinations_never_come_in_training() -> None:
    rng = Random(2)
    scenes = [random_scene(rng) for _ in range(3000)]
    assert not [s for s in scenes if is_held_out(s.shape, s.colour, s.background)]


def test_a_few_combinations_of_every_kind_are_held_out() -> None:
    held_out = list(held_out_combinations())
    assert 15 <= len(held_out) <= 60
    assert is_held_out(*held_out[0])
