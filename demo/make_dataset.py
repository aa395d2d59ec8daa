"""Write the bundled datasets: pictures of a zorbling, a creature the base model has never seen, and drawings it knows.

    python -m demo.make_dataset --out demo/dataset --known demo/known

A zorbling is a plump teal star with two big eyes and two orange legs. The base model knows eyes and legs, but neither
the word nor the colour. The captions say only what may vary (where it is, how big, on what background), so the word
`zorbling` has to carry the rest. The drawings that the base model knows are trained beside them, so that the LoRA keeps
what it can do.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

from demo import drawings
from demo.captions import caption as describe
from demo.creatures import LEG_REACH, draw_eyes, draw_legs
from demo.drawings import BACKGROUNDS, SUPERSAMPLING, Point, Size, accidents, place, placed, random_scene, star

BODY = (0, 150, 136)
OUTLINE = star(0.62)
SIZES = ((64, 64), (80, 48), (64, 64), (48, 80), (64, 64), (128, 128), (64, 64), (160, 96))
"""Width and height of the pictures in pixels, in turn."""
KNOWN_SIZES = ((64, 64), (64, 64), (80, 48), (64, 64), (48, 80), (64, 64))
NUM_ZORBLINGS, NUM_KNOWN = 144, 72
RADII: dict[Size, float] = {"small": 0.24, "medium": 0.27, "big": 0.3}
PLACES = ("centre", "left", "centre", "right", "top", "centre", "bottom")
"""Where they stand, in turn."""
PLACE_WORDS = {
    "left": " on the left",
    "right": " on the right",
    "top": " at the top",
    "bottom": " at the bottom",
    "centre": "",
}

PROMPTS = (
    "a zorbling on a white background",
    "a small zorbling on the left on a light blue background",
    "a big zorbling on a black background",
    "a zorbling at the top on a light green background",
)
"""Prompts to sample with, before and after training."""

LICENSE = """\
The pictures and captions in this folder were drawn by demo/make_dataset.py.
They are dedicated to the public domain under CC0 1.0 Universal:
https://creativecommons.org/publicdomain/zero/1.0/
SPDX-License-Identifier: CC0-1.0
"""
README = f"""\
# Zorblings

{NUM_ZORBLINGS} captioned drawings of one invented creature, in {len(set(SIZES))} sizes. CC0 1.0.
Written by `python -m demo.make_dataset`; do not edit by hand.
"""
KNOWN_README = f"""\
# Known drawings

{NUM_KNOWN} captioned drawings of shapes, such as the base model was trained on. CC0 1.0.
Written by `python -m demo.make_dataset`; do not edit by hand.
"""

Drawn = tuple[str, Image.Image, str]
"""Name without ending, picture, caption."""


@dataclass(frozen=True)
class Zorbling:
    """One picture: what the caption says, then what it leaves out, as in `Scene`."""

    background: str
    size: Size
    position: str
    dx: float
    dy: float
    scale: float
    turn: float


def zorbling(index: int) -> Zorbling:
    """The scene of picture `index`; backgrounds, positions and sizes come in turn."""
    rng = Random(f"zorbling {index}")
    return Zorbling(
        background=list(BACKGROUNDS)[index * 3 % len(BACKGROUNDS)],
        size=tuple(RADII)[index % len(RADII)],
        position=PLACES[index // len(RADII) % len(PLACES)],
        **accidents(rng),
    )


def caption(scene: Zorbling) -> str:
    """`a small zorbling on the left on a white background`; neither the middle size nor the centre has a word."""
    size = "" if scene.size == "medium" else f"{scene.size} "
    return f"a {size}zorbling{PLACE_WORDS[scene.position]} on a {scene.background} background"


def draw(scene: Zorbling, width: int, height: int) -> Image.Image:
    """Paint the creature as an RGB picture of `width` x `height` pixels."""
    big = (width * SUPERSAMPLING, height * SUPERSAMPLING)
    canvas = Image.new("RGB", big, BACKGROUNDS[scene.background])
    centre, radius = _layout(scene, *big)
    pen = ImageDraw.Draw(canvas)
    draw_legs(pen, centre, radius)
    pen.polygon(placed(OUTLINE, centre, radius, scene.turn), fill=BODY)
    draw_eyes(pen, centre, radius)
    return canvas.reduce(SUPERSAMPLING)


def _layout(scene: Zorbling, width: int, height: int) -> tuple[Point, float]:
    """Where the body stands, so that all of the creature is inside the picture, and its radius."""
    side = min(width, height)
    radius = RADII[scene.size] * side * scene.scale
    x, y = place((width, height), scene.position, radius, radius, LEG_REACH * radius)
    return (x + scene.dx * side, y + scene.dy * side), radius


def pictures() -> list[Drawn]:
    """Every picture of a zorbling."""
    scenes = [zorbling(i) for i in range(NUM_ZORBLINGS)]
    return [
        (f"zorbling_{i:03d}", draw(scene, *SIZES[i % len(SIZES)]), caption(scene)) for i, scene in enumerate(scenes)
    ]


def known_pictures() -> list[Drawn]:
    """Drawings of the base model's own world."""
    drawn: list[Drawn] = []
    for i in range(NUM_KNOWN):
        rng = Random(f"known {i}")
        scene = random_scene(rng)
        drawn.append((f"known_{i:03d}", drawings.draw(scene, *KNOWN_SIZES[i % len(KNOWN_SIZES)]), describe(scene, rng)))
    return drawn


def write_dataset(folder: Path, drawn: list[Drawn], readme: str) -> None:
    """Write pictures, their captions, LICENSE and README.md into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture, text in drawn:
        picture.save(folder / f"{name}.png", optimize=True)
        (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
    (folder / "LICENSE").write_text(LICENSE, encoding="utf-8")
    (folder / "README.md").write_text(readme, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser("python -m demo.make_dataset")
    parser.add_argument("--out", type=Path, default=Path("demo/dataset"), help="folder of the zorblings")
    parser.add_argument("--known", type=Path, default=Path("demo/known"), help="folder of the known drawings")
    options = parser.parse_args(arguments)
    write_dataset(options.out, pictures(), README)
    write_dataset(options.known, known_pictures(), KNOWN_README)


if __name__ == "__main__":
    main()
