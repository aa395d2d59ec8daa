"""One picture of the whole dataset: cropped thumbnails with names and captions, by bucket, held-out ones framed.

Which pictures are shown is chosen before any is decoded. Imports Pillow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from trainer_core.data.names import pluralize
from trainer_core.data.pictures.decode import load_rgb, to_bucket
from trainer_core.data.pictures.mask_pixels import load_mask
from trainer_core.data.pictures.picture_info import PictureProblem
from trainer_core.data.reports.text_layout import clip_middle, font, one_line, wrap
from trainer_core.files import FileChanged, read_verified
from trainer_core.types import Bucket, Control, Geometry, Mask, Sample

LIMIT = 400
"""Most pictures on a sheet; of more, an even sample of each bucket."""
HELD_OUT = "#e8590c"
"""Colour of the frame of a held-out picture."""
MASKED = "#3b5bdb"
"""Colour laid over what a mask leaves out."""
_SIDES = ((40, 160), (150, 128), (LIMIT, 96))
"""Up to so many pictures: longer side of a thumbnail in pixels."""
_ASPECT = 1.42
"""Width over height that a sheet tends to: of the frame in which Dagster's page shows it."""
_WIDTHS = (720, 2600)
_NARROWEST = 84
"""Width of a cell at least, so that its name can be read."""
_MARGIN, _GAP, _FRAME, _BESIDE = 20, 10, 3, 5
_TEXT, _NAME, _SMALL = 14, 11, 10
"""Font sizes in pixels: of headings, of names, of captions."""
_HEAD, _HEADING, _LABEL, _LINE = 62, 26, 18, 13
"""Heights in pixels: of title and legend, of a group's heading, of a name, of a line of a caption."""
_LINES = 2
"""Most lines of a caption that are shown."""
_UNREADABLE = (OSError, FileChanged, PictureProblem, MemoryError)
_PAPER, _INK, _PALE, _NOTHING = "#f6f7f9", "#1c2127", "#69727d", "#dfe3e8"


@dataclass(frozen=True)
class Group:
    """The pictures of one bucket: those that are shown, and how many there are."""

    bucket: Bucket
    shown: tuple[Sample, ...]
    pictures: int
    held_out: int

    @property
    def controls(self) -> int:
        """Most control pictures of a sample that is shown."""
        return max((len(sample.controls) for sample in self.shown), default=0)

    @property
    def heading(self) -> str:
        """Bucket and counts, and how many pictures are left out."""
        text = f"{self.bucket.width} x {self.bucket.height}: {pluralize(self.pictures, 'picture')}"
        text += f", {self.held_out} held out" if self.held_out else ""
        rest = self.pictures - len(self.shown)
        return f"{text}, {rest} more not shown" if rest else text


class Block(NamedTuple):
    """Where a group goes: its corner, the size of a thumbnail and of its cell, and cells in a row, in pixels."""

    left: int
    top: int
    thumbnail: tuple[int, int]
    cell: tuple[int, int]
    columns: int

    def corner(self, number: int) -> tuple[int, int]:
        """Return the left upper corner of a cell."""
        row, column = divmod(number, self.columns)
        return self.left + column * self.cell[0], self.top + _HEADING + row * self.cell[1]


def write_contact_sheet(samples: Sequence[Sample], path: Path, threads: int = 2, limit: int = LIMIT) -> None:
    """Draw the samples as a PNG. A picture that cannot be decoded, or changed since, leaves an empty cell.

    Args:
        samples: of all buckets, at least one.
        path: where the PNG goes.
        threads: pictures decoded at the same time.
        limit: most thumbnails.
    """
    groups = choose(samples, limit)
    side = next((side for most, side in _SIDES if sum(len(group.shown) for group in groups) <= most), _SIDES[-1][1])
    widths = [_heading_width(group) for group in groups]
    size, blocks = arrange(groups, widths, side)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_head(draw, samples, groups)
    with ThreadPoolExecutor(threads, thread_name_prefix="thumbnail") as pool:
        for group, block in zip(groups, blocks, strict=True):
            thumbnails = list(pool.map(_thumbnail, group.shown, [block.thumbnail] * len(group.shown)))
            _draw_group(sheet, draw, group, block, thumbnails)
            if group.controls:
                _draw_controls(sheet, group, block, pool)
    sheet.save(path)


def choose(samples: Sequence[Sample], limit: int) -> list[Group]:
    """Return the groups by aspect ratio, widest last, with at most `limit` samples shown in all.

    Each bucket shows at least one picture and a share by its size, evenly spaced over its samples, those for training
    first; with more buckets than `limit`, the fullest are shown.
    """
    inside: dict[Bucket, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: (sample.split == "held_out", sample.id)):
        inside[sample.bucket].append(sample)
    buckets = sorted(inside, key=lambda bucket: (-len(inside[bucket]), bucket))[:limit]
    spare, total = limit - len(buckets), sum(len(inside[bucket]) for bucket in buckets)
    groups: list[Group] = []
    for bucket in sorted(buckets, key=lambda bucket: (bucket.width / bucket.height, bucket)):
        members = inside[bucket]
        share = len(members) if total <= limit else 1 + spare * (len(members) - 1) // (total - len(buckets))
        held_out = sum(sample.split == "held_out" for sample in members)
        groups.append(Group(bucket, tuple(_evenly(members, share)), len(members), held_out))
    return groups


def arrange(groups: Sequence[Group], headings: Sequence[int], side: int) -> tuple[tuple[int, int], list[Block]]:
    """Place the groups on shelves, left to right; return the sheet's size and one block a group.

    Args:
        groups: in order.
        headings: width of each group's heading in pixels.
        side: longer side of a thumbnail in pixels.
    """
    cells = [_cell(group, side) for group in groups]
    area = sum(
        len(group.shown) * cell[0] * (cell[1] + _HEADING // 2) for group, (_, cell) in zip(groups, cells, strict=True)
    )
    least = max(_WIDTHS[0], *(2 * _MARGIN + width for width in headings), *(2 * _MARGIN + cell[0] for _, cell in cells))
    width = max(least, min(_WIDTHS[1], int(sqrt(_ASPECT * 1.2 * area))))
    inner = width - 2 * _MARGIN
    blocks: list[Block] = []
    left, top, shelf = _MARGIN, _HEAD + _MARGIN, 0
    for group, heading, (thumbnail, cell) in zip(groups, headings, cells, strict=True):
        columns = min(len(group.shown), inner // cell[0])
        wide, high = max(heading, columns * cell[0]), _HEADING + -(-len(group.shown) // columns) * cell[1]
        if left > _MARGIN and left + wide > width - _MARGIN:
            left, top, shelf = _MARGIN, top + shelf, 0
        blocks.append(Block(left, top, thumbnail, cell, columns))
        left, shelf = left + wide + 2 * _GAP, max(shelf, high + _GAP)
    return (width, top + shelf + _MARGIN), blocks


def _evenly(members: Sequence[Sample], count: int) -> list[Sample]:
    """Return `count` of them at equal distances, the first and the last included."""
    if count == 1:
        return [members[0]]
    return [members[number * (len(members) - 1) // (count - 1)] for number in range(count)]


def _cell(group: Group, side: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the size of a bucket's thumbnails and of their cells; small buckets are enlarged by a whole factor.

    Where there are control pictures, each cell has a column of half a thumbnail's width for them.
    """
    bucket = group.bucket
    longer = max(bucket.width, bucket.height)
    if longer <= side:
        thumbnail = (bucket.width * (side // longer), bucket.height * (side // longer))
    else:
        thumbnail = (max(1, bucket.width * side // longer), max(1, bucket.height * side // longer))
    wide = thumbnail[0] + (_BESIDE + thumbnail[0] // 2 if group.controls else 0)
    return thumbnail, (max(wide, _NARROWEST) + _GAP, thumbnail[1] + _LABEL + _LINES * _LINE + _GAP)


def _thumbnail(sample: Sample, size: tuple[int, int]) -> Image.Image | None:
    try:
        picture = load_rgb(read_verified(sample.path, sample.picture))
        if size[0] >= sample.bucket.width:
            shown = Image.fromarray(to_bucket(picture, sample.geometry)).resize(size, Image.Resampling.NEAREST)
        else:
            # The same part of the picture, resized once: a tenth of the time of going through the bucket.
            shown = picture.resize(size, Image.Resampling.LANCZOS, box=cropped_part(sample.geometry), reducing_gap=2.0)
        return shown if sample.mask is None else _tinted(shown, sample.mask, sample.geometry)
    except _UNREADABLE:
        return None


def _tinted(shown: Image.Image, mask: Mask, geometry: Geometry) -> Image.Image:
    """Lay a colour over what the mask leaves out of training."""
    values = load_mask(read_verified(mask.path, mask.picture), alpha=mask.alpha)
    (high, wide), (left, top, right, bottom) = geometry.original, cropped_part(geometry)
    across, down = values.width / wide, values.height / high
    box = (left * across, top * down, right * across, bottom * down)
    tinted = Image.blend(shown, Image.new("RGB", shown.size, MASKED), 0.7)
    return Image.composite(shown, tinted, values.resize(shown.size, Image.Resampling.BOX, box=box))


def _control_thumbnail(control: Control, size: tuple[int, int]) -> Image.Image | None:
    """Return a control picture whole, no larger than `size`."""
    try:
        picture = load_rgb(read_verified(control.path, control.picture))
        picture.thumbnail(size)
        return picture
    except _UNREADABLE:
        return None


def cropped_part(geometry: Geometry) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) of what the crop keeps, in pixels of the original."""
    (high, wide), (height, width), (top, left) = geometry.original, geometry.target, geometry.crop
    across, down = wide / geometry.resized[1], high / geometry.resized[0]
    return left * across, top * down, min(wide, (left + width) * across), min(high, (top + height) * down)


def _heading_width(group: Group) -> int:
    return int(font(_TEXT, bold=True).getlength(group.heading)) + 1


def _draw_head(draw: ImageDraw.ImageDraw, samples: Sequence[Sample], groups: Sequence[Group]) -> None:
    """Draw the title, and below it what the frame means."""
    buckets = len({sample.bucket for sample in samples})
    shown = sum(len(group.shown) for group in groups)
    title = f"{pluralize(len(samples), 'picture')} in {pluralize(buckets, 'bucket')}"
    title += f", {shown} of them shown" if shown < len(samples) else ""
    draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=font(_TEXT + 3, bold=True))
    legend, top = font(_TEXT - 2), _MARGIN + 32
    draw.rectangle((_MARGIN, top, _MARGIN + 14, top + 14), outline=HELD_OUT, width=_FRAME)
    text = "held out: never trained on     As training sees them"
    if any(group.controls for group in groups):
        text += ", cropped; small beside: what the edit starts from."
    else:
        text += ": resized, and cropped to the bucket."
    if any(sample.mask is not None for group in groups for sample in group.shown):
        text += " Blue: masked."
    draw.text((_MARGIN + 22, top + 7), text, fill=_PALE, font=legend, anchor="lm")


def _draw_group(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    group: Group,
    block: Block,
    thumbnails: Sequence[Image.Image | None],
) -> None:
    draw.text((block.left, block.top), group.heading, fill=_INK, font=font(_TEXT, bold=True))
    width, height = block.thumbnail
    for number, (sample, thumbnail) in enumerate(zip(group.shown, thumbnails, strict=True)):
        left, top = block.corner(number)
        if thumbnail is None:
            draw.rectangle((left, top, left + width - 1, top + height - 1), fill=_NOTHING)
            draw.text((left + width / 2, top + height / 2), "unreadable", fill=_PALE, font=font(_NAME), anchor="mm")
        else:
            sheet.paste(thumbnail, (left, top))
            draw.rectangle((left - 1, top - 1, left + width, top + height), outline=_NOTHING)
        if sample.split == "held_out":
            around = (left - _FRAME, top - _FRAME, left + width - 1 + _FRAME, top + height - 1 + _FRAME)
            draw.rectangle(around, outline=HELD_OUT, width=_FRAME)
        _draw_label(draw, sample, (left, top + height + _FRAME + 1), block.cell[0] - _GAP)


def _draw_label(draw: ImageDraw.ImageDraw, sample: Sample, corner: tuple[int, int], width: int) -> None:
    """Write the file's name and the beginning of the caption below a thumbnail."""
    left, top = corner
    name = clip_middle(one_line(sample.id.rpartition("/")[2]), font(_NAME), width)
    draw.text((left, top), name, fill=_INK, font=font(_NAME))
    for number, line in enumerate(wrap(sample.caption, font(_SMALL), width, _LINES)):
        draw.text((left, top + _LABEL - 2 + number * _LINE), line, fill=_PALE, font=font(_SMALL))


def _draw_controls(sheet: Image.Image, group: Group, block: Block, pool: ThreadPoolExecutor) -> None:
    """Paste the control pictures small to the right of their pictures, one below the other."""
    width, height = block.thumbnail
    box = (max(1, width // 2), max(1, height // max(2, group.controls)))
    shown = [(number, row, one) for number, sample in enumerate(group.shown) for row, one in enumerate(sample.controls)]
    small = pool.map(_control_thumbnail, [one for *_, one in shown], [box] * len(shown))
    for (number, row, _), picture in zip(shown, small, strict=True):
        left, top = block.corner(number)
        if picture is not None:
            sheet.paste(picture, (left + width + _BESIDE, top + row * box[1]))
