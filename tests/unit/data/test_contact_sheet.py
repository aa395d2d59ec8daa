"""The contact sheet: which pictures are shown, where they go, and what marks them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from tests.unit.data.helpers import bucket_config, build, draw, look, pair
from trainer_core.data.manifest import Manifest
from trainer_core.data.pictures import decode
from trainer_core.data.pictures.buckets import cover_bucket
from trainer_core.data.reports import contact_sheet
from trainer_core.data.reports.contact_sheet import HELD_OUT, LIMIT, arrange, choose, write_contact_sheet
from trainer_core.types import Bucket, Control, Sample

BUCKETS = [Bucket(width, height) for width in (64, 128, 512, 1024) for height in (64, 96, 768)]


def sample(number: int, bucket: Bucket, held_out: bool = False) -> Sample:
    geometry = cover_bucket(bucket.width, bucket.height, bucket)
    name = f"set/{number:05d}.png"
    return Sample(name, Path(name), "0" * 64, "", bucket, geometry, 1, "held_out" if held_out else "train")


counts = st.dictionaries(st.sampled_from(BUCKETS), st.tuples(st.integers(0, 90), st.integers(0, 9)), min_size=1).filter(
    lambda found: any(train + held for train, held in found.values())
)


def samples_of(wanted: dict[Bucket, tuple[int, int]]) -> list[Sample]:
    flat = [(bucket, kind) for bucket, (train, held) in wanted.items() for kind in [False] * train + [True] * held]
    return [sample(number, bucket, held) for number, (bucket, held) in enumerate(flat)]


@given(counts, st.integers(1, 200))
def test_no_more_than_the_limit_and_something_of_every_bucket(
    wanted: dict[Bucket, tuple[int, int]], limit: int
) -> None:
    samples = samples_of(wanted)
    groups = choose(samples, limit)
    shown = [one.id for group in groups for one in group.shown]
    assert len(shown) == len(set(shown)) <= limit
    assert all(group.shown for group in groups)
    buckets = {one.bucket for one in samples}
    assert {group.bucket for group in groups} == buckets or len(groups) == limit
    if len(samples) <= limit:
        assert len(shown) == len(samples)
    for group in groups:
        inside = [one for one in samples if one.bucket == group.bucket]
        assert group.pictures == len(inside)
        assert group.held_out == sum(one.split == "held_out" for one in inside)


def test_a_cut_bucket_shows_training_and_held_out_pictures_and_counts_the_rest() -> None:
    groups = choose(samples_of({Bucket(64, 64): (1000, 2), Bucket(128, 64): (3, 0)}), 50)
    first = groups[0]
    assert {one.split for one in first.shown} == {"train", "held_out"}
    assert first.heading == f"64 x 64: 1002 pictures, 2 held out, {1002 - len(first.shown)} more not shown"
    assert groups[1].heading.startswith("128 x 64: 3 pictures")
    assert sum(len(group.shown) for group in groups) >= 48


def test_a_whole_bucket_tells_only_what_there_is() -> None:
    assert choose([sample(1, Bucket(64, 96))], 10)[0].heading == "64 x 96: 1 picture"


@given(counts, st.sampled_from([96, 128, 160]), st.integers(50, 500))
def test_groups_lie_apart_and_on_the_sheet(wanted: dict[Bucket, tuple[int, int]], side: int, heading: int) -> None:
    groups = choose(samples_of(wanted), LIMIT)
    (width, height), blocks = arrange(groups, [heading] * len(groups), side)
    boxes: list[tuple[int, int, int, int]] = []
    for group, block in zip(groups, blocks, strict=True):
        right = max(block.left + heading, *(block.corner(n)[0] + block.cell[0] for n in range(len(group.shown))))
        bottom = block.corner(len(group.shown) - 1)[1] + block.cell[1]
        assert block.left > 0 and right <= width and bottom <= height
        assert max(block.thumbnail) <= side or min(block.thumbnail) == 1
        boxes.append((block.left, block.top, right, bottom))
    for number, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[:number]:
            assert left >= other[2] or right <= other[0] or top >= other[3] or bottom <= other[1]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    for number in range(9):
        pair(tmp_path / "data", f"{number}.png", colour=(10 * number, 120, 40))
    draw(tmp_path / "data/wide.png", (128, 40), (1, 2, 250)).with_suffix(".txt").write_text("wide")
    return build(look(tmp_path / "data", held_out=0.2))


def colours(path: Path) -> set[Any]:
    with Image.open(path) as sheet:
        return {colour for _, colour in sheet.convert("RGB").getcolors(1 << 24)}


def test_every_picture_is_on_the_sheet_and_held_out_ones_are_framed(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    write_contact_sheet(manifest.samples, path)
    assert {(10 * number, 120, 40) for number in range(9)} | {(1, 2, 250)} <= colours(path)
    with Image.open(path) as sheet:
        frame = ImageColor.getrgb(HELD_OUT)
        data = list(sheet.get_flattened_data() if hasattr(sheet, "get_flattened_data") else sheet.getdata())
    groups = choose(manifest.samples, LIMIT)
    _, blocks = arrange(groups, [0] * len(groups), 160)
    sizes = [block.thumbnail for group, block in zip(groups, blocks, strict=True) for _ in range(group.held_out)]
    assert len(sizes) == 2
    frames = sum(2 * 3 * (width + height + 6) for width, height in sizes)
    legend = 2 * 3 * (15 + 15 - 6)
    assert data.count(frame) == frames + legend


def test_equal_samples_give_equal_bytes(manifest: Manifest, tmp_path: Path) -> None:
    for name, threads in (("1.png", 1), ("2.png", 4)):
        write_contact_sheet(manifest.samples, tmp_path / name, threads)
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_pictures_that_are_gone_changed_or_broken_leave_empty_cells(manifest: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "0.png").unlink()
    draw(folder / "1.png", colour=(255, 0, 255))
    (folder / "2.png").write_bytes(b"broken")
    write_contact_sheet(manifest.samples, tmp_path / "sheet.png")
    found = colours(tmp_path / "sheet.png")
    assert found.isdisjoint({(0, 120, 40), (10, 120, 40), (20, 120, 40), (255, 0, 255)})
    assert {(30, 120, 40), (1, 2, 250)} <= found


def test_a_picture_that_cannot_be_decoded_leaves_an_empty_cell(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"broken")
    bucket, sha256 = Bucket(64, 64), hashlib.sha256(b"broken").hexdigest()
    bad = Sample("set/bad.png", tmp_path / "bad.png", sha256, "", bucket, cover_bucket(64, 64, bucket), 1, "train")
    write_contact_sheet([bad], tmp_path / "sheet.png")
    assert (223, 227, 232) in colours(tmp_path / "sheet.png")


def test_what_is_not_shown_is_not_decoded(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []

    def counting(source: Any) -> Any:
        decoded.append(1)
        return decode.load_rgb(source)

    monkeypatch.setattr(contact_sheet, "load_rgb", counting)
    write_contact_sheet(manifest.samples, tmp_path / "sheet.png", limit=4)
    assert len(decoded) == 4


@pytest.mark.parametrize("scale", [1, 10])
def test_a_thumbnail_shows_what_the_crop_keeps(tmp_path: Path, scale: int) -> None:
    wide = Image.new("RGB", (640 * scale, 64 * scale), (0, 160, 0))
    wide.paste((255, 0, 0), (0, 0, 150 * scale, 64 * scale))
    (tmp_path / "data").mkdir()
    wide.save(tmp_path / "data/wide.png")
    (tmp_path / "data/wide.txt").write_text("wide")
    bucket = bucket_config(resolution=64 * scale, step=8, min_side=32 * scale, max_side=128 * scale)
    write_contact_sheet(build(look(tmp_path / "data"), bucket=bucket).samples, tmp_path / "sheet.png")
    found = colours(tmp_path / "sheet.png")
    assert (0, 160, 0) in found and (255, 0, 0) not in found


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from(BUCKETS))
def test_the_part_that_is_shown_lies_in_the_picture_and_has_the_shape_of_the_bucket(
    width: int, height: int, bucket: Bucket
) -> None:
    geometry = cover_bucket(width, height, bucket)
    left, top, right, bottom = contact_sheet.cropped_part(geometry)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    across, down = geometry.resized[1] / width, geometry.resized[0] / height
    assert (right - left) * across == pytest.approx(bucket.width)
    assert (bottom - top) * down == pytest.approx(bucket.height)


def test_names_of_any_bytes_are_drawn(tmp_path: Path) -> None:
    bucket = Bucket(64, 64)
    strange = Sample("set/a\udc80b.png", tmp_path / "x", "0" * 64, "", bucket, cover_bucket(64, 64, bucket), 1, "train")
    write_contact_sheet([strange], tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").is_file()


def test_control_pictures_are_small_beside_their_picture(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.png", (64, 64), (200, 30, 60))
    control = draw(tmp_path / "before.png", (64, 32), (0, 0, 250))
    sha256, before = (hashlib.sha256(one.read_bytes()).hexdigest() for one in (path, control))
    plain = Sample("set/a.png", path, sha256, "", Bucket(64, 64), cover_bucket(64, 64, Bucket(64, 64)), 1, "train")
    edit = replace(plain, controls=(Control(control, before, (32, 64), (32, 64)),))
    colours: list[set[Any]] = []
    for number, one in enumerate((plain, edit, replace(edit, controls=(replace(edit.controls[0], picture="0"),)))):
        write_contact_sheet([one], tmp_path / f"{number}.png")
        with Image.open(tmp_path / f"{number}.png") as sheet:
            colours.append({colour for _, colour in sheet.getcolors(1 << 20) or []})
    assert [(0, 0, 250) in found for found in colours] == [False, True, False]
    assert all((200, 30, 60) in found for found in colours)
    groups = choose([plain], 5), choose([edit], 5)
    (_, (alone,)), (_, (beside,)) = (arrange(group, [10], 128) for group in groups)
    assert beside.thumbnail == alone.thumbnail
    assert beside.cell[0] > alone.cell[0] + alone.thumbnail[0] // 2


@pytest.mark.setting("datasets.mask_path")
@pytest.mark.parametrize("side", [64, 1024])
def test_what_a_mask_leaves_out_is_tinted(tmp_path: Path, side: int) -> None:
    path = draw(tmp_path / "pictures" / "a.png", (2 * side, side), (200, 200, 200))
    path.with_suffix(".txt").write_text("a cat")
    mask = Image.new("L", (2 * side, side), 0)
    mask.paste(255, (side, 0, 2 * side, side))
    (tmp_path / "masks").mkdir()
    mask.save(tmp_path / "masks" / "a.png")
    grid = bucket_config(resolution=side, step=32, min_side=32, max_side=side, table="square")
    (one,) = build(look(tmp_path / "pictures", mask_path=tmp_path / "masks", held_out=0), bucket=grid).samples
    shown = contact_sheet._thumbnail(one, (64, 64))  # pyright: ignore[reportPrivateUsage]
    assert shown is not None
    left, right = shown.getpixel((8, 32)), shown.getpixel((56, 32))
    assert right == (200, 200, 200)
    tint = ImageColor.getrgb(contact_sheet.MASKED)
    assert left == tuple(int(200 * 0.3 + value * 0.7) for value in tint)
    (tmp_path / "masks" / "a.png").write_bytes(b"another")
    assert contact_sheet._thumbnail(one, (64, 64)) is None  # pyright: ignore[reportPrivateUsage]
