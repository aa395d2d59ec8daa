"""Procedural drawings with captions: the world that the demo base model knows.

A :class:`Scene` holds everything visible in a drawing, so the same scene always gives the same
pixels. All drawings are made by this file and are dedicated to the public domain (CC0 1.0).
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Literal

from PIL import Image, ImageDraw

from demo.creatures import LEG_REACH, draw_eyes, draw_legs

RGB = tuple[int, int, int]
Point = tuple[float, float]
Size = Literal["small", "medium", "big"]

SUPERSAMPLING = 4
"""Drawings are painted this many times larger, then averaged down, for smooth edges."""


def _around(count: int, radius: float = 1.0, start: float = -90.0) -> list[Point]:
    """Return `count` points on a circle, clockwise on screen from `start` degrees."""
    angles = [math.radians(start + 360.0 * i / count) for i in range(count)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


def star(waist: float) -> list[Point]:
    """A star of five points whose inner corners lie at `waist` of its radius."""
    outer, inner = _around(5), _around(5, radius=waist, start=-54.0)
    return [point for pair in zip(outer, inner, strict=True) for point in pair]


def _heart() -> list[Point]:
    """The usual heart curve 16 sin^3 t, scaled into the unit circle."""
    turns = [2.0 * math.pi * i / 48 for i in range(48)]
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in turns
    ]


def _ring() -> list[Point]:
    # One polygon that walks round the outside, steps in, and walks back round the hole.
    outer = _around(48)
    inner = [(0.55 * x, 0.55 * y) for x, y in outer]
    return [*outer, outer[0], inner[0], *reversed(inner)]


def _cross() -> list[Point]:
    arm, end = 0.32, 0.95
    quarter = [(-arm, -end), (arm, -end), (arm, -arm)]
    corners: list[Point] = []
    for _ in range(4):
        corners += quarter
        quarter = [(-y, x) for x, y in quarter]
    return corners


def _moon() -> list[Point]:
    """A crescent, open to the right: most of a circle, and a flatter arc back."""
    turns = [math.radians(55.0 + 250.0 * i / 40) for i in range(41)]
    outside = [(math.cos(t) + 0.25, math.sin(t)) for t in turns]
    tip_x, tip_y = outside[0]
    bends = [math.radians(90.0 - 180.0 * i / 24) for i in range(23, 0, -1)]
    inside = [(tip_x - 0.85 * math.cos(t), tip_y * math.sin(t)) for t in bends]
    return outside + inside


SHAPES: dict[str, list[Point]] = {
    "circle": _around(48),
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0.0, -0.95), (1.0, 0.8), (-1.0, 0.8)],
    "star": star(0.5),
    "heart": _heart(),
    "ring": _ring(),
    "cross": _cross(),
    "diamond": [(0.0, -1.0), (0.7, 0.0), (0.0, 1.0), (-0.7, 0.0)],
    "moon": _moon(),
}
"""Each shape as one polygon about the origin, y down, within the unit circle or nearly."""

COLOURS: dict[str, RGB] = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (245, 210, 40),
    "purple": (140, 50, 180),
    "orange": (245, 135, 30),
    "pink": (250, 130, 185),
    "cyan": (40, 200, 215),
}

BACKGROUNDS: dict[str, RGB] = {
    "white": (255, 255, 255),
    "black": (15, 15, 15),
    "grey": (150, 150, 150),
    "light blue": (185, 215, 245),
    "light green": (195, 230, 185),
    "beige": (235, 220, 190),
    "dark blue": (25, 35, 85),
}

RADII: dict[Size, tuple[float, float, float]] = {
    "small": (0.165, 0.13, 0.1),
    "medium": (0.23, 0.165, 0.118),
    "big": (0.3, 0.2, 0.136),
}
"""Radius of one shape as a share of the shorter side, for one, two and three shapes."""

POSITIONS: dict[str, Point] = {
    "left": (0.0, 0.5),
    "right": (1.0, 0.5),
    "top": (0.5, 0.0),
    "bottom": (0.5, 1.0),
    "centre": (0.5, 0.5),
}
"""Where the group stands between its two extreme places, x then y."""

MARGIN = 0.06
"""Between a shape at an extreme place and the picture's side, as a share of the shorter side."""
COUNT_WEIGHTS = (0.72, 0.16, 0.12)
CREATURE_SHARE = 0.2
"""How many of the drawings of one shape have eyes and legs, where the shape has room for them."""
BODIES = ("circle", "square", "triangle", "star", "heart", "diamond")
HELD_OUT_ONE_IN = 16


@dataclass(frozen=True)
class Scene:
    """Everything visible in one drawing.

    `creature` gives the shape two eyes and two orange legs. `dx`, `dy` shift the shapes (share of the
    shorter side), `scale` multiplies their radius and `turn` rotates them (degrees): small accidents
    that no caption mentions.
    """

    shape: str
    colour: str
    background: str
    size: Size = "medium"
    position: str = "centre"
    count: int = 1
    creature: bool = False
    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0
    turn: float = 0.0


def is_held_out(shape: str, colour: str, background: str) -> bool:
    """Whether this combination is never trained; about one in sixteen, chosen by hash."""
    digest = hashlib.sha256(f"{shape}|{colour}|{background}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % HELD_OUT_ONE_IN == 0


def held_out_combinations() -> Iterator[tuple[str, str, str]]:
    """Yield every (shape, colour, background) that training never shows."""
    return (combo for combo in product(SHAPES, COLOURS, BACKGROUNDS) if is_held_out(*combo))


def random_scene(rng: Random) -> Scene:
    """Draw a scene of the training stream; held-out combinations never come."""
    while True:
        shape, colour, background = (rng.choice(list(t)) for t in (SHAPES, COLOURS, BACKGROUNDS))
        if not is_held_out(shape, colour, background):
            break
    count = rng.choices((1, 2, 3), COUNT_WEIGHTS)[0]
    # A row of shapes fills the width, so left and right would not be visible.
    positions = tuple(POSITIONS) if count == 1 else ("top", "bottom", "centre")
    return Scene(
        shape=shape,
        colour=colour,
        background=background,
        size=rng.choice(tuple(RADII)),
        position=rng.choice(positions),
        count=count,
        creature=count == 1 and shape in BODIES and rng.random() < CREATURE_SHARE,
        **accidents(rng),
    )


def accidents(rng: Random) -> dict[str, float]:
    """What differs between two drawings of one caption."""
    return {
        "dx": rng.uniform(-0.04, 0.04),
        "dy": rng.uniform(-0.04, 0.04),
        "scale": rng.uniform(0.94, 1.06),
        "turn": rng.uniform(-4.0, 4.0),
    }


def draw(scene: Scene, width: int, height: int) -> Image.Image:
    """Paint a scene as an RGB picture of `width` x `height` pixels."""
    big = (width * SUPERSAMPLING, height * SUPERSAMPLING)
    canvas = Image.new("RGB", big, BACKGROUNDS[scene.background])
    pen = ImageDraw.Draw(canvas)
    radius, centres = _layout(scene, *big)
    for centre in centres:
        if scene.creature:
            draw_legs(pen, centre, radius)
        pen.polygon(placed(SHAPES[scene.shape], centre, radius, scene.turn), fill=COLOURS[scene.colour])
        if scene.creature:
            draw_eyes(pen, centre, radius)
    return canvas.reduce(SUPERSAMPLING)


def placed(outline: Sequence[Point], centre: Point, radius: float, turn: float) -> list[Point]:
    """An outline about the origin, turned by degrees, in pixels."""
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return [(centre[0] + radius * (cos * x - sin * y), centre[1] + radius * (sin * x + cos * y)) for x, y in outline]


def place(size: tuple[int, int], position: str, half_width: float, above: float, below: float) -> Point:
    """Where the centre of a thing stands that reaches so far to its sides, in pixels of a picture of `size`."""
    across, down = POSITIONS[position]
    margin = MARGIN * min(size)
    x = _between(half_width + margin, size[0] - half_width - margin, across)
    return x, _between(above + margin, size[1] - below - margin, down)


def _layout(scene: Scene, width: int, height: int) -> tuple[float, list[Point]]:
    """Return the radius and the centre of every shape, in pixels, all inside the picture."""
    side = min(width, height)
    radius = RADII[scene.size][scene.count - 1] * side * scene.scale
    step = 2.25 * radius
    below = LEG_REACH * radius if scene.creature else radius
    x, y = place((width, height), scene.position, radius + step * (scene.count - 1) / 2, radius, below)
    first = x + scene.dx * side - step * (scene.count - 1) / 2
    return radius, [(first + step * i, y + scene.dy * side) for i in range(scene.count)]


def _between(low: float, high: float, share: float) -> float:
    return low + share * (high - low) if low < high else (low + high) / 2
