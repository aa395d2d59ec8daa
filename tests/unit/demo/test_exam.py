"""The exam of pictures, tried on drawings whose truth is known."""

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import demo
from demo import make_dataset
from demo.captions import OPENINGS, POSITION_WORDS, caption, plural
from demo.drawings import (
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    RADII,
    SHAPES,
    Scene,
    draw,
    held_out_combinations,
    is_held_out,
    random_scene,
)
from demo.exam import SIDE, TRAITS, Wanted, examine, held_out_prompts, main, paint, parse, report, score

SCENE = Scene(shape="star", colour="red", background="white", size="big", position="top")
PROMPT = "a big red star at the top on a white background"
ROOT = Path(demo.__file__).parents[1]


def picture(scene: Scene) -> Image.Image:
    return draw(scene, SIDE, SIDE)


def zorbling_picture() -> Image.Image:
    return make_dataset.draw(make_dataset.zorbling(0), SIDE, SIDE)


def truth(scene: Scene) -> Wanted:
    """What a caption of a scene may ask for."""
    return Wanted(scene.colour, scene.shape, scene.background, scene.count, scene.position, scene.size)


def test_drawings_of_held_out_scenes_have_all_that_their_captions_ask_for() -> None:
    assert fmean(score(picture(scene), prompt) for scene, prompt in held_out_prompts()) >= 0.98


@pytest.mark.parametrize(
    "change",
    [
        {"colour": "blue"},
        {"shape": "circle"},
        {"background": "black"},
        {"count": 2},
        {"position": "bottom"},
        {"size": "small"},
    ],
    ids=TRAITS,
)
def test_each_trait_that_is_wrong_costs_its_share(change: dict[str, str | int]) -> None:
    assert score(picture(SCENE), PROMPT) == 1.0
    wrong = picture(replace(SCENE, **change))
    assert score(wrong, PROMPT) == pytest.approx(5 / 6)
    # Of what a shorter prompt names, it is a greater share.
    trait = next(iter(change))
    prompt = {
        "colour": "red",
        "shape": "stars",
        "background": "white background",
        "count": "one",
        "position": "near the top",
        "size": "large",
    }[trait]
    assert score(picture(SCENE), prompt) == 1.0
    assert score(wrong, prompt) == 0.0


def test_all_wrong_is_nothing() -> None:
    other = Scene(shape="moon", colour="green", background="black", count=3)
    assert score(picture(other), PROMPT) == 0.0
    assert score(Image.new("RGB", (SIDE, SIDE), BACKGROUNDS["black"]), PROMPT) == 0.0


def test_what_a_prompt_does_not_name_is_not_examined() -> None:
    assert score(picture(SCENE), "red stars") == 1.0
    assert score(picture(replace(SCENE, count=3, background="grey")), "red stars") == 1.0
    assert score(picture(SCENE), "blue stars") == 0.5


@pytest.mark.parametrize("place", [place for place in POSITIONS if place != "centre"])
def test_every_place_is_told_from_the_others(place: str) -> None:
    words = "; ".join(filter(None, POSITION_WORDS[place]))
    for size in RADII:
        for shape in SHAPES:
            scene = replace(SCENE, shape=shape, size=size, position=place)
            assert score(picture(scene), words.split("; ")[0]) == 1.0, scene
            assert score(picture(replace(scene, position="centre")), words.split("; ")[0]) == 0.0, scene


def test_eyes_and_legs_are_refused_where_no_zorbling_is_asked_for() -> None:
    with pytest.raises(ValueError, match="judged in a zorbling alone"):
        score(picture(SCENE), "a red star with eyes and legs")


@pytest.mark.parametrize("prompt", [*make_dataset.PROMPTS, "A Zorbling!", "two zorblings, red star"])
def test_a_prompt_with_a_zorbling_asks_for_a_zorbling_alone(prompt: str) -> None:
    assert score(zorbling_picture(), prompt) == 1.0
    assert score(picture(SCENE), prompt) == 0.0


def test_a_zorbling_is_a_word_of_its_own() -> None:
    assert score(picture(SCENE), "a zorblingish red star") == 1.0


@pytest.mark.parametrize("prompt", ["", "a photo of a cat", "a blue background", "a thing in a room"])
def test_a_prompt_that_names_nothing_is_refused_with_what_is_wanted(prompt: str) -> None:
    with pytest.raises(ValueError, match="names nothing that can be judged") as error:
        score(picture(SCENE), prompt)
    for name in ("zorbling", *SHAPES, *COLOURS, *BACKGROUNDS, "three"):
        assert name in str(error.value)


@pytest.mark.parametrize(
    "prompt", ["a red star and a blue one", "a star and two circles", "a star, white background, black background"]
)
def test_a_prompt_of_two_kinds_is_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="name one of each"):
        score(picture(SCENE), prompt)


def test_every_caption_is_read_as_its_scene() -> None:
    rng = Random("captions")
    for _ in range(2000):
        scene = replace(random_scene(rng), creature=False)
        text, asked = caption(scene, rng), truth(scene)
        # the middle has no word for its size, and may have none for its place
        asked = replace(asked, size=None if scene.size == "medium" else scene.size)
        unnamed = replace(asked, place=None) if scene.position == "centre" else asked
        assert parse(text) in (asked, unnamed), text


def test_captions_of_every_kind_are_read() -> None:
    rng = Random("captions")
    texts = [caption(random_scene(rng), rng) for _ in range(2000)]
    assert all(any(text.startswith(opening) for text in texts) for opening in OPENINGS)
    forms = (" on a ", " with a ", ", on a ", " two ", "three ", "an orange", *map(plural, SHAPES))
    assert {form for form in forms if not any(form in text for text in texts)} == set()


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_read_with_an_article_a_number_or_none(shape: str) -> None:
    assert parse(f"a {shape}") == parse(f"One {shape}.") == Wanted(None, shape, None, 1)
    assert parse(f"a drawing of {plural(shape)}") == Wanted(None, shape, None, None)
    assert parse(f"one row of two {plural(shape)}").count == 2
    assert parse(f"three {plural(shape)}") == Wanted(None, shape, None, 3)
    assert parse(f"{plural(shape)}, on a grey background") == Wanted(None, shape, "grey", None)


def test_the_colour_of_a_background_is_not_the_shapes() -> None:
    assert parse("a star on a dark-blue background") == Wanted(None, "star", "dark blue", 1)
    assert parse("a green star on a yellow background") == Wanted("green", "star", None, 1)
    assert parse("a grey star") == Wanted(None, "star", None, 1)


def test_held_out_prompts_are_distinct_scenes_that_training_never_shows() -> None:
    scenes = [scene for scene, _ in held_out_prompts()]
    assert len(set(scenes)) == len(scenes) == 200
    assert all(is_held_out(scene.shape, scene.colour, scene.background) for scene in scenes)
    combinations = [(scene.shape, scene.colour, scene.background) for scene in scenes]
    counts = [combinations.count(one) for one in held_out_combinations()]
    assert max(counts) - min(counts) <= 1
    # A short exam is not of the first shapes alone.
    assert len({scene.shape for scene in scenes[:20]}) > 5


def test_held_out_prompts_are_fixed_and_more_of_them_only_adds() -> None:
    pairs = held_out_prompts()
    assert pairs == held_out_prompts(200, seed=0)
    assert held_out_prompts(30) == pairs[:30]
    assert held_out_prompts(30, seed=1) != pairs[:30]


def test_held_out_scenes_vary_in_all_else() -> None:
    scenes = [scene for scene, _ in held_out_prompts()]
    assert {scene.size for scene in scenes} == set(RADII)
    assert {scene.position for scene in scenes} == set(POSITIONS)
    assert {scene.count for scene in scenes} == {1, 2, 3}
    assert not any(scene.creature for scene in scenes)


def test_a_report_has_what_was_right_of_what_was_asked_and_what_each_shape_was_taken_for() -> None:
    pairs = [(SCENE, PROMPT), (replace(SCENE, shape="circle"), "a red circle on a white background")]
    result = examine("drawings", pairs, [picture(SCENE), picture(replace(SCENE, colour="blue"))])
    assert result.right == {
        "colour": (1, 2),
        "shape": (1, 2),
        "background": (2, 2),
        "count": (2, 2),
        "place": (1, 1),
        "size": (1, 1),
    }
    text = report([result, replace(result, name="base", zorblings=0.25)])
    half, all_two, all_one = "1 of 2 (50.0%)", "2 of 2 (100.0%)", "1 of 1 (100.0%)"
    row = f"{half} | {half} | {all_two} | {all_two} | {all_one} | {all_one}"
    assert f"| drawings | {row} |  |\n" in text
    assert f"| base | {row} | 25.0% |\n" in text
    assert (
        "\nShapes of drawings:\n\n| wanted \\ seen | star | none |\n| --- | ---: | ---: |\n| circle | 1 |  |\n" in text
    )


def test_base_and_lora_paint_the_same_prompts_from_the_same_noise() -> None:
    calls: list[tuple[str, int]] = []

    def pipeline(prompts: list[str], *, generator: list[Any], width: int, height: int, **_: object) -> SimpleNamespace:
        calls.extend((prompt, one.initial_seed()) for prompt, one in zip(prompts, generator, strict=True))
        return SimpleNamespace(images=[Image.new("RGB", (width, height), prompt) for prompt in prompts])

    options = argparse.Namespace(steps=1, guidance=1.0)
    prompts = ["red", "blue"] * 22
    pictures = list(paint(pipeline, options, "base", prompts))
    assert [one.getpixel((0, 0)) for one in pictures] == [(255, 0, 0), (0, 0, 255)] * 22
    assert calls == [(prompt, seed) for seed, prompt in enumerate(prompts)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--base", "nowhere"], "there is no model_index.json"),
        (["--lora", "none.safetensors"], "there is no such file"),
        (["--json", "nowhere/out.json"], "its folder does not exist"),
        (["--prompts", "0"], "at least 1"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_painted(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model_index.json").touch()
    with pytest.raises(SystemExit):
        main(["--base", str(tmp_path), *arguments])
    assert told in capsys.readouterr().err


def test_scoring_needs_no_torch() -> None:
    code = "import sys, demo.exam; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
