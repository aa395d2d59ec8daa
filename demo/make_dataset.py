"""Write the bundled datasets: pictures of a zorbling, a creature the base model has never seen, and drawings it knows.

    python -m demo.make_dataset --out demo/dataset --known demo/known

A zorbling is a plump teal star with two big eyes and two orange legs. The captions say only what may vary (where
it is, how big, on what background), so the word `zorbling` has to carry the rest. The drawings that
the base model knows are trained beside them, so that the LoRA keeps what it can do.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from PIL import Image, ImageDraw

from demo import drawings
from demo.captions import caption as describe
from demo.drawings import BACKGROUNDS, POSITIONS, SUPERSAMPLING, Point, random_scene

BODY, LIMB = (0, 150, 136), (235, 120, 25)
EYE, PUPIL = (255, 255, 255), (10, 10, 10)
SIZES = (
    (64, 64),
    (80, 48),
    (64, 64),
    (48, 80),
    (96, 64),
    (64, 64),
    (128, 96),
    (64, 96),
    (160, 160),
)
"""Width and height of the pictures in pixels, in turn."""
KNOWN_SIZES = ((64, 64), (64, 64), (80, 48), (64, 64), (48, 80), (96, 64), (64, 96))
NUM_PICTURES = 36
"""In each of the two folders."""
RADII = {"small": 0.31, "big": 0.39}
LEG_REACH = 1.35
"""How far below its centre a zorbling stands, in body radii."""

PROMPTS = (
    "a zorbling on a white background",
    "a small zorbling on a light blue background, on the left",
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

{NUM_PICTURES} captioned drawings of one invented creature, in {len(set(SIZES))} sizes. CC0 1.0.
Written by `python -m demo.make_dataset`; do not edit by hand.
"""
KNOWN_README = f"""\
# Known drawings

{NUM_PICTURES} captioned drawings of shapes, such as the base model was trained on. CC0 1.0.
Written by `python -m demo.make_dataset`; do not edit by hand.
"""

Drawn = tuple[str, Image.Image, str]
"""Name without ending, picture, caption."""


@dataclass(frozen=True)
class Zorbling:
    """One picture: what the caption tells, then what it leaves out.

    `gaze` (degrees) is where the eyes look, `stride` spreads the legs (body radii), `turn` tilts
    the body (degrees).
    """

    background: str
    size: Literal["small", "big"]
    position: str
    gaze: float
    stride: float
    turn: float


def zorbling(index: int) -> Zorbling:
    """The scene of picture `index`; backgrounds, positions and sizes come in turn."""
    rng = Random(f"zorbling {index}")
    return Zorbling(
        background=list(BACKGROUNDS)[index % len(BACKGROUNDS)],
        size="big" if index % 2 == 0 else "small",
        position=list(POSITIONS)[index * 2 % len(POSITIONS)],
        gaze=rng.uniform(0.0, 360.0),
        stride=rng.uniform(0.15, 0.55),
        turn=rng.uniform(-15.0, 15.0),
    )


def caption(scene: Zorbling) -> str:
    """`a zorbling on a white background, small, on the left`."""
    place = {
        "left": "on the left",
        "right": "on the right",
        "top": "at the top",
        "bottom": "at the bottom",
        "centre": "in the centre",
    }[scene.position]
    return f"a zorbling on a {scene.background} background, {scene.size}, {place}"


def draw(scene: Zorbling, width: int, height: int) -> Image.Image:
    """Paint the creature as an RGB picture of `width` x `height` pixels."""
    big = (width * SUPERSAMPLING, height * SUPERSAMPLING)
    canvas = Image.new("RGB", big, BACKGROUNDS[scene.background])
    radius = RADII[scene.size] * min(big)
    centre = _centre(scene, radius, *big)
    pen = ImageDraw.Draw(canvas)
    _legs(pen, scene, centre, radius)
    _body(pen, scene, centre, radius)
    _eyes(pen, scene, centre, radius)
    return canvas.reduce(SUPERSAMPLING)


def _centre(scene: Zorbling, radius: float, width: int, height: int) -> Point:
    """Where the body stands, so that all of the creature is inside the picture."""
    across, down = POSITIONS[scene.position]
    margin = 0.03 * min(width, height) + radius
    below = margin + (LEG_REACH - 1.0) * radius
    x = margin + across * (width - 2 * margin)
    return x, margin + down * (height - margin - below)


def _legs(pen: ImageDraw.ImageDraw, scene: Zorbling, centre: Point, radius: float) -> None:
    x, y = centre
    thick = max(round(0.24 * radius), SUPERSAMPLING)
    ground = y + LEG_REACH * radius
    for side in (-1, 1):
        foot = x + side * (0.2 + scene.stride) * radius
        toe = foot + side * 0.2 * radius
        pen.line(((x + side * 0.25 * radius, y), (foot, ground)), fill=LIMB, width=thick)
        pen.line(((foot, ground - thick / 2), (toe, ground - thick / 2)), fill=LIMB, width=thick)


def _body(pen: ImageDraw.ImageDraw, scene: Zorbling, centre: Point, radius: float) -> None:
    """A plump star."""
    star = [
        (centre[0] + length * math.cos(angle), centre[1] + length * math.sin(angle))
        for i in range(10)
        for length in [radius * (1.0 if i % 2 == 0 else 0.6)]
        for angle in [math.radians(scene.turn - 90.0 + 36.0 * i)]
    ]
    pen.polygon(star, fill=BODY)


def _eyes(pen: ImageDraw.ImageDraw, scene: Zorbling, centre: Point, radius: float) -> None:
    look = math.radians(scene.gaze)
    eye = max(0.32 * radius, 1.6 * SUPERSAMPLING)
    for side in (-1, 1):
        x, y = centre[0] + side * 1.1 * eye, centre[1] - 0.2 * radius
        pen.ellipse((x - eye, y - eye, x + eye, y + eye), fill=EYE)
        px, py = x + 0.35 * eye * math.cos(look), y + 0.35 * eye * math.sin(look)
        pupil = 0.5 * eye
        pen.ellipse((px - pupil, py - pupil, px + pupil, py + pupil), fill=PUPIL)


def pictures() -> list[Drawn]:
    """Every picture of a zorbling."""
    scenes = [zorbling(i) for i in range(NUM_PICTURES)]
    return [
        (f"zorbling_{i:02d}", draw(scene, *SIZES[i % len(SIZES)]), caption(scene)) for i, scene in enumerate(scenes)
    ]


def known_pictures() -> list[Drawn]:
    """Drawings of the base model's own world."""
    drawn: list[Drawn] = []
    for i in range(NUM_PICTURES):
        rng = Random(f"known {i}")
        scene = random_scene(rng)
        drawn.append((f"known_{i:02d}", drawings.draw(scene, *KNOWN_SIZES[i % len(KNOWN_SIZES)]), describe(scene, rng)))
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
