"""Eyes and legs: what makes a creature of a drawn shape. Lengths are in radii of the body unless told otherwise."""

from PIL import ImageDraw

RGB = tuple[int, int, int]
Point = tuple[float, float]

LIMB: RGB = (235, 120, 25)
EYE: RGB = (255, 255, 255)
PUPIL: RGB = (10, 10, 10)
LEG_REACH = 1.4
"""How far below its centre a creature stands."""
LEG, FOOT, STRIDE = 0.26, 0.22, 0.5
"""Thickness of a leg, length of a foot, and how far from the middle a foot stands."""
EYE_SIZE, EYE_HEIGHT, PUPIL_SIZE = 0.29, 0.12, 0.55
"""Radius of an eye, how far above the centre it lies, and its pupil's radius as a share of its own."""


def draw_legs(pen: ImageDraw.ImageDraw, centre: Point, radius: float) -> None:
    """Paint two legs with feet that point outwards; the body is painted over them. Point and radius in pixels."""
    x, y = centre
    thick, ground = round(LEG * radius), y + LEG_REACH * radius
    for side in (-1, 1):
        foot = x + side * STRIDE * radius
        toe = foot + side * FOOT * radius
        pen.line(((x + side * 0.3 * radius, y), (foot, ground)), fill=LIMB, width=thick)
        pen.line(((foot - side * thick / 2, ground - thick / 2), (toe, ground - thick / 2)), fill=LIMB, width=thick)


def draw_eyes(pen: ImageDraw.ImageDraw, centre: Point, radius: float) -> None:
    """Paint two white eyes with black pupils. Point and radius in pixels."""
    eye = EYE_SIZE * radius
    for side in (-1, 1):
        x, y = centre[0] + side * 1.05 * eye, centre[1] - EYE_HEIGHT * radius
        pen.ellipse((x - eye, y - eye, x + eye, y + eye), fill=EYE)
        pupil = PUPIL_SIZE * eye
        pen.ellipse((x - pupil, y - pupil, x + pupil, y + pupil), fill=PUPIL)
