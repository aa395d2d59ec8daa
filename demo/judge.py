"""A judge of pictures: names what is drawn by its colours and outlines; nothing in it is learned.

It measures what the demo models paint. It takes pictures of any size from 16 x 16 pixels, and what it
cannot name is `None`, never an error. Suffixes of arrays: H, W pixels; 3 channels; N some pixels;
C colours; K pieces of a picture; S shapes; T templates; G cells of a template.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from demo.creatures import EYE, LIMB, PUPIL
from demo.drawings import BACKGROUNDS, COLOURS, MARGIN, POSITIONS, RADII, RGB, SHAPES, Size
from demo.make_dataset import BODY

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

NONE = "none"
"""What a table calls a thing without a name."""

WORKING_SIDE = 64
"""Bigger pictures are averaged down until their shorter side is about this many pixels."""
MIN_AREA = 12.0
"""Less than this many pixels is nothing."""

MIN_PAPER_SHARE, MIN_SIDE_PAPER_SHARE = 0.7, 0.25
"""How much of the border, and of each of its sides, must be paper."""
MAX_BACKGROUND_DISTANCE = 60.0
MIN_CONTRAST = 32.0
"""What is farther from the paper is drawn. Distances between colours are Euclidean, in levels of 0..255."""

MAX_PIXEL_MISFIT = 60.0
"""A pixel that a colour does not explain counts no more than this."""
FAINTNESS_COST = 30.0
"""Misfit of a colour that the picture only shows thinned with paper."""
MAX_MISFIT = 45.0
COLOUR_SAMPLES = 400
"""About how many pixels name the colour: they are alike, and more would only take longer."""

GRID = 28
GRID_REACH = 1.2
"""A template spans this many roots of its area to each side of its centre."""
TURNS = (-6.0, 0.0, 6.0)
BLURS = (0.0, 0.08, 0.16)
"""Softness of a template's edges, in roots of its area: small drawings are soft."""
MAX_COUNT = 3
MIN_ROOM = 0.15
"""Where a thing has less room than this share of the shorter side, it is neither left nor right of the centre."""
WIDEST, MAX_NECK = 1.12, 0.6
"""A piece wider than about this many heights is two or three shapes that touch,
if it is no thicker than `MAX_NECK` of its thickest column where they do."""
MIN_PIECE_SHARE = 0.25
"""A piece with less than this share of the greatest area is a speck."""
MIN_LIKENESS = 0.87
MAX_RIVALRY = 0.75
"""What the best shape lacks, over what the second best lacks; more is a blob between the two."""

TRAITS = ("body", "eyes", "legs")
MAX_BODY_DISTANCE = 65.0
"""How far from its colour the body may be: green and cyan drawings are farther."""
MAX_PART_DISTANCE = 90.0
"""The same of eyes, pupils and legs, each from its own colour."""
MIN_ZORBLING_SCORE = 0.6


@dataclass(frozen=True)
class Verdict:
    """What a picture shows: `count` things of one shape and colour, side by side; `None` is what has no name."""

    background: str | None
    colour: str | None
    shape: str | None
    count: int
    size: Size | None = None
    place: str | None = None


def judge(picture: Image.Image) -> Verdict:
    """Name what a drawing shows."""
    pixels_HW3 = to_pixels(picture)
    paper_3 = find_paper(pixels_HW3)
    if paper_3 is None:
        return Verdict(None, None, None, 0)
    background = name_background(paper_3)
    drawn_N3 = pixels_HW3[np.linalg.norm(pixels_HW3 - paper_3, axis=2) > MIN_CONTRAST]
    colour, ink_3 = find_ink(drawn_N3, paper_3)
    if colour is None:
        return Verdict(background, None, None, 0)
    coverage_HW = coverage(pixels_HW3, paper_3, ink_3)
    _, shape, count = match_shape(coverage_HW)
    box = bounds(coverage_HW)
    if box is None:
        return Verdict(background, colour, shape, count)
    at, extent = box
    return Verdict(
        background,
        colour,
        shape,
        count,
        find_size(extent, shape, count, coverage_HW.shape),
        find_place(at, extent, coverage_HW.shape),
    )


def to_pixels(picture: Image.Image) -> Floats:
    """Any picture to float32 (H, W, 3) in 0..255, averaged down to the working size."""
    factor = max(1, round(min(picture.size) / WORKING_SIDE))
    return np.asarray(picture.convert("RGB").reduce(factor), dtype=np.float32)


def find_paper(pixels_HW3: Floats) -> Floats | None:
    """The median colour (3,) of the border, if it is found on all sides."""
    sides = (pixels_HW3[0], pixels_HW3[-1], pixels_HW3[1:-1, 0], pixels_HW3[1:-1, -1])
    paper_3 = np.median(np.concatenate(sides), axis=0).astype(np.float32)
    paper = [np.linalg.norm(side_N3 - paper_3, axis=1) < MIN_CONTRAST for side_N3 in sides]
    clear = all(side_N.mean() >= MIN_SIDE_PAPER_SHARE for side_N in paper if side_N.size)
    return paper_3 if clear and np.concatenate(paper).mean() >= MIN_PAPER_SHARE else None


def name_background(paper_3: Floats) -> str | None:
    """The nearest background's name for a colour (3,), if it is near enough."""
    distance_C = np.linalg.norm(_palette(BACKGROUNDS) - paper_3, axis=1)
    best = int(distance_C.argmin())
    return list(BACKGROUNDS)[best] if distance_C[best] < MAX_BACKGROUND_DISTANCE else None


def find_ink(drawn_N3: Floats, paper_3: Floats) -> tuple[str | None, Floats]:
    """The named colour that explains the drawn pixels best, and its value (3,) in this picture.

    A colour explains the mixtures of itself and the paper, as edges mix them. Without a name, the value is the paper's.
    """
    if len(drawn_N3) < MIN_AREA:
        return None, paper_3
    some_N3 = drawn_N3[:: len(drawn_N3) // COLOUR_SAMPLES + 1]
    misfit_NC, strength_NC = _mixture(some_N3, paper_3, _palette(COLOURS))
    strongest_C = np.quantile(strength_NC, 0.9, axis=0)
    misfit_C = np.minimum(misfit_NC, MAX_PIXEL_MISFIT).mean(axis=0) + FAINTNESS_COST * (1.0 - strongest_C)
    best = int(misfit_C.argmin())
    if misfit_C[best] > MAX_MISFIT:
        return None, paper_3
    pure_N = strength_NC[:, best] >= 0.9 * strongest_C[best]
    return list(COLOURS)[best], np.median(some_N3[pure_N], axis=0).astype(np.float32)


def coverage(pixels_HW3: Floats, paper_3: Floats, ink_3: Floats) -> Floats:
    """How much of each pixel is ink and not paper: (H, W) in 0..1, without the faintest and noise."""
    way_3 = ink_3 - paper_3
    share_HW = (pixels_HW3 - paper_3) @ way_3 / max(float(way_3 @ way_3), MIN_CONTRAST**2)
    return np.clip((share_HW - 0.1) / 0.8, 0.0, 1.0).astype(np.float32)


def match_shape(coverage_HW: Floats) -> tuple[float, str | None, int]:
    """Likeness (a correlation, -1..1) to the best shape, its name if it is clear, and how many there are."""
    pieces = split(coverage_HW)
    if not pieces:
        return -1.0, None, 0
    likeness_KT = np.stack([normalise(piece) for piece in pieces]) @ templates().T
    likeness_S = likeness_KT.mean(axis=0).reshape(len(SHAPES), -1).max(axis=1)
    second, best = (int(index) for index in likeness_S.argsort()[-2:])
    likeness = float(likeness_S[best])
    clear = likeness >= MIN_LIKENESS and 1 - likeness <= MAX_RIVALRY * (1 - likeness_S[second])
    return likeness, list(SHAPES)[best] if clear else None, len(pieces)


def bounds(coverage_HW: Floats) -> tuple[Floats, Floats] | None:
    """The centre (2,) and half the extent (2,), across and down, of all pieces that are no specks, in pixels."""
    kept_HW = np.zeros_like(coverage_HW)
    pieces = split(coverage_HW, kept_HW)
    if not pieces:
        return None
    outlines = [kept_HW.max(axis=axis) for axis in (0, 1)]
    spans = [np.flatnonzero(outline > 0.5) for outline in outlines]
    if not all(span.size for span in spans):
        return None
    middle = [(span[0] + span[-1] + 1) / 2.0 for span in spans]
    # the sum knows parts of pixels
    return np.array(middle, dtype=np.float32), np.array([outline.sum() / 2.0 for outline in outlines])


def find_size(extent_2: Floats, shape: str | None, count: int, picture: tuple[int, ...]) -> Size | None:
    """The size whose radius is nearest to that of a shape, by the height of its row."""
    if shape is None or not 1 <= count <= MAX_COUNT:
        return None
    radius = float(extent_2[1]) / float(np.ptp([y for _, y in SHAPES[shape]]) / 2.0) / min(picture)
    return min(RADII, key=lambda size: abs(math.log(radius / RADII[size][count - 1])))


def find_place(at_2: Floats, extent_2: Floats, picture: tuple[int, ...]) -> str:
    """The place that a thing of this extent stands nearest to, of all where it would be inside the picture."""
    size_2 = np.array((picture[1], picture[0]), dtype=np.float32)
    low_2 = extent_2 + MARGIN * min(picture)
    room_2 = size_2 - 2.0 * low_2
    share_2 = np.where(room_2 > MIN_ROOM * min(picture), (at_2 - low_2) / np.maximum(room_2, 1.0), 0.5)
    return min(POSITIONS, key=lambda name: float(np.linalg.norm(share_2 - POSITIONS[name])))


def split(coverage_HW: Floats, kept_HW: Floats | None = None) -> list[Floats]:
    """Cut into pieces at the empty columns, and at the necks of what is too wide for one shape; drop specks.

    What is kept is written into `kept_HW`, if there is one.
    """
    solid_HW = coverage_HW > 0.5
    edges = np.flatnonzero(np.diff(solid_HW.any(axis=0), prepend=False, append=False))
    spans: list[tuple[int, int]] = []
    for left, right in zip(edges[::2], edges[1::2], strict=True):
        height = int(np.ptp(np.flatnonzero(solid_HW[:, left:right].any(axis=1)))) + 1
        necks = [left + neck for neck in find_necks(coverage_HW[:, left:right].sum(axis=0), height)]
        cuts = [max(left - 1, 0), *necks, right + 1]
        spans += pairwise(cuts)
    areas = [float(coverage_HW[:, start:end].sum()) for start, end in spans]
    least = max(MIN_AREA, MIN_PIECE_SHARE * max(areas, default=0.0))
    kept = [span for span, area in zip(spans, areas, strict=True) if area >= least]
    if kept_HW is not None:
        for start, end in kept:
            kept_HW[:, start:end] = coverage_HW[:, start:end]
    return [coverage_HW[:, start:end] for start, end in kept]


def find_necks(thickness_W: Floats, height: int) -> list[int]:
    """The columns where up to three shapes of this height touch, by the thickness (W,) of their row."""
    width = len(thickness_W)
    parts = min(max(round(width / (WIDEST * height)), 1), 3)
    necks: list[int] = []
    for i in range(1, parts):
        first, end = (round(width * (i + shift) / parts) for shift in (-0.25, 0.25))
        necks.append(first + int(thickness_W[first : end + 1].argmin()))
    return necks if max(thickness_W[necks], default=0.0) <= MAX_NECK * thickness_W.max() else []


def normalise(piece_HW: Floats) -> Floats:
    """Move and scale a piece to a common centre and area; its cells (G,), of mean 0 and length 1."""
    area = float(piece_HW.sum())
    x = float(piece_HW.sum(axis=0) @ np.arange(piece_HW.shape[1])) / area + 0.5
    y = float(piece_HW.sum(axis=1) @ np.arange(piece_HW.shape[0])) / area + 0.5
    reach = GRID_REACH * area**0.5
    step = 2.0 * reach / GRID
    view = Image.fromarray(np.ascontiguousarray(piece_HW, dtype=np.float32)).transform(
        (GRID, GRID),
        Image.Transform.AFFINE,
        (step, 0.0, x - reach, 0.0, step, y - reach),
        Image.Resampling.BILINEAR,
    )
    cells_G = np.asarray(view, dtype=np.float32).ravel()
    cells_G = cells_G - cells_G.mean()
    return cells_G / max(float(np.linalg.norm(cells_G)), 1e-6)


@cache
def templates() -> Floats:
    """Every shape, normalised, in every turn and blur: (T, G), the rows of a shape together."""
    return np.stack([normalise(silhouette(*kind)) for kind in product(SHAPES, TURNS, BLURS)])


def silhouette(shape: str, turn: float, blur: float) -> Floats:
    """A shape turned by degrees, as coverage; `blur` as in `BLURS`."""
    side, radius = 192, 56.0
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    corners = [
        (side / 2 + radius * (cos * x - sin * y), side / 2 + radius * (sin * x + cos * y)) for x, y in SHAPES[shape]
    ]
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    area = float(np.asarray(mask, dtype=np.float32).sum()) / 255.0
    return np.asarray(mask.filter(ImageFilter.GaussianBlur(blur * area**0.5)), dtype=np.float32) / 255.0


def is_zorbling(picture: Image.Image) -> bool:
    """Whether enough of a zorbling is seen."""
    return zorbling_score(picture) >= MIN_ZORBLING_SCORE


def zorbling_score(picture: Image.Image) -> float:
    """How much of a zorbling is seen, 0..1: as much as of the least of its body, eyes and legs."""
    return min(zorbling_traits(picture).values())


def zorbling_traits(picture: Image.Image) -> dict[str, float]:
    """How much is seen of each trait, 0..1; places are measured in radii from the centre of the body.

    A trait is whole when about half of what a zorbling usually shows of it is seen.
    """
    pixels_HW3 = to_pixels(picture)
    paper_3 = find_paper(pixels_HW3)
    parts = {} if paper_3 is None else _zorbling_parts(pixels_HW3, paper_3)
    if not parts or parts["body"].sum() < MIN_AREA:
        return dict.fromkeys(TRAITS, 0.0)
    ys, xs = np.nonzero(parts["body"])
    radius = 1.4 * float(np.hypot(ys - ys.mean(), xs - xs.mean()).mean())
    down_HW, across_HW = np.indices(pixels_HW3.shape[:2])
    down_HW, across_HW = (down_HW - ys.mean()) / radius, (across_HW - xs.mean()) / radius
    away_HW = np.hypot(down_HW, across_HW)
    below_HW = (down_HW > 0.3) & (down_HW < 1.8) & (abs(across_HW) < 1.2)

    def seen(part: str, place_HW: Bools, whole: float) -> float:
        return min(1.0, float((parts[part] & place_HW).sum()) / (whole * radius**2))

    return {
        "body": seen("body", away_HW < 1.2, 0.35),
        "eyes": min(seen("eye", away_HW < 0.65, 0.12), seen("pupil", away_HW < 0.65, 0.04)),
        "legs": seen("leg", below_HW, 0.08),
    }


def _zorbling_parts(pixels_HW3: Floats, paper_3: Floats) -> dict[str, Bools]:
    """Where each part's colour is the nearest (H, W), and near enough; only eyes may be like the paper."""
    colours_C3 = np.array((BODY, EYE, PUPIL, LIMB), dtype=np.float32)
    distance_HWC = np.linalg.norm(pixels_HW3[..., None, :] - colours_C3, axis=-1)
    reach_C = np.array((MAX_BODY_DISTANCE, MAX_PART_DISTANCE, MAX_PART_DISTANCE, MAX_PART_DISTANCE))
    nearest_HW = distance_HWC.argmin(axis=2)
    body_HW, eye_HW, pupil_HW, leg_HW = ((nearest_HW == i) & (distance_HWC[..., i] < reach_C[i]) for i in range(4))
    drawn_HW = np.linalg.norm(pixels_HW3 - paper_3, axis=2) > MIN_CONTRAST
    return {"body": body_HW & drawn_HW, "eye": eye_HW, "pupil": pupil_HW, "leg": leg_HW & drawn_HW}


def confusion_table(pairs: Iterable[tuple[str, str | None]]) -> pd.DataFrame:
    """Counts of (wanted, seen): a row for each wanted, a column for each seen; `none` is the last."""
    table = Counter((wanted, seen or NONE) for wanted, seen in pairs)
    rows = sorted({wanted for wanted, _ in table})
    columns = [*sorted({seen for _, seen in table} - {NONE}), NONE]
    counts = [[table[row, column] for column in columns] for row in rows]
    return pd.DataFrame(
        counts, index=pd.Index(rows, name="wanted"), columns=pd.Index(columns, name="seen"), dtype="int64"
    )


def _palette(names: dict[str, RGB]) -> Floats:
    return np.array(list(names.values()), dtype=np.float32)


def _mixture(pixels_X3: Floats, start: Floats, end_C3: Floats) -> tuple[Floats, Floats]:
    """Distance (..., C) of pixels from the lines of colours from `start` (3,) or (C, 3), and where on them, 0..1."""
    way_C3 = end_C3 - start
    offset_XC3 = pixels_X3[..., None, :] - start
    share_XC = np.clip((offset_XC3 * way_C3).sum(axis=-1) / np.maximum((way_C3**2).sum(axis=1), 1.0), 0.0, 1.0)
    return np.linalg.norm(offset_XC3 - share_XC[..., None] * way_C3, axis=-1), share_XC
