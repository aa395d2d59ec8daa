from fractions import Fraction
from math import lcm

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.data.helpers import bucket_config
from trainer_core.config.groups import BucketConfig
from trainer_core.data.pictures.buckets import (
    BucketGrid,
    assign_bucket,
    cover_bucket,
    enlargement,
    kept_share,
    make_grid,
    nearest_bucket,
)
from trainer_core.errors import ConfigError
from trainer_core.types import Bucket, Geometry

SIDES = st.integers(1, 6000)


@st.composite
def configs(draw: st.DrawFn) -> tuple[BucketConfig, int]:
    step = draw(st.sampled_from([8, 16, 24, 32, 64]))
    multiple = draw(st.sampled_from([8, 16, 32]))
    unit = lcm(step, multiple)
    resolution = draw(st.integers(max(unit, 16), 1100))
    min_side = draw(st.integers(8, resolution // unit * unit))
    max_side = draw(st.integers(resolution, 3000))
    upscale = draw(st.booleans())
    config = bucket_config(resolution=resolution, step=step, min_side=min_side, max_side=max_side, upscale=upscale)
    return config, multiple


@pytest.mark.setting("bucket.resolution", "bucket.step", "bucket.min_side", "bucket.max_side")
@given(configs())
def test_bucket_sides_are_multiples_within_limits_and_no_area_is_exceeded(setting: tuple[BucketConfig, int]) -> None:
    config, multiple = setting
    grid = make_grid(config, multiple)
    assert grid.sizes
    for bucket in grid.sizes:
        assert bucket.width % multiple == bucket.height % multiple == 0
        assert bucket.width % config.step == bucket.height % config.step == 0
        assert bucket.width * bucket.height <= config.resolution**2
        assert config.min_side <= min(bucket.width, bucket.height)
        assert max(bucket.width, bucket.height) <= config.max_side
        assert Bucket(bucket.height, bucket.width) in grid.sizes
    assert list(grid.ratios) == sorted(set(grid.ratios))


@given(configs())
def test_no_bucket_could_grow_in_both_directions(setting: tuple[BucketConfig, int]) -> None:
    config, multiple = setting
    grid = make_grid(config, multiple)
    for size in grid.sizes:
        wider, higher = size.width + grid.step, size.height + grid.step
        can_widen = wider <= config.max_side and wider * size.height <= config.resolution**2
        can_heighten = higher <= config.max_side and higher * size.width <= config.resolution**2
        assert not (can_widen and can_heighten)


@given(configs(), SIDES, SIDES)
def test_every_picture_gets_exactly_one_bucket_that_its_crop_fills(
    setting: tuple[BucketConfig, int], width: int, height: int
) -> None:
    config, multiple = setting
    grid = make_grid(config, multiple)
    placed = assign_bucket(width, height, grid)
    assert placed == assign_bucket(width, height, grid)
    if isinstance(placed, str):
        assert ":" in placed
        return
    assert placed.original == (height, width)
    assert placed.target[0] * placed.target[1] <= config.resolution**2
    assert config.min_side <= min(placed.target)
    assert max(placed.target) <= config.max_side
    assert all(side % grid.step == 0 for side in placed.target)
    for resized, crop, target in zip(placed.resized, placed.crop, placed.target, strict=True):
        assert crop >= 0
        assert crop + target <= resized
        assert abs((resized - target) - 2 * crop) <= 1
    assert placed.resized[0] == placed.target[0] or placed.resized[1] == placed.target[1]
    assert config.upscale or all(new <= old for new, old in zip(placed.resized, placed.original, strict=True))
    assert not config.upscale or Bucket(placed.target[1], placed.target[0]) in grid.sizes


@given(configs(), SIDES, SIDES)
def test_the_nearest_bucket_is_what_comparing_all_of_them_exactly_gives(
    setting: tuple[BucketConfig, int], width: int, height: int
) -> None:
    grid = make_grid(*setting)

    def distance(bucket: Bucket) -> Fraction:
        ratio = Fraction(width * bucket.height, height * bucket.width)
        return max(ratio, 1 / ratio)

    best = min(grid.sizes, key=lambda size: (distance(size), -size.width * size.height, -size.width))
    assert nearest_bucket(width, height, grid) == best


def grid(**settings: object) -> BucketGrid:
    return make_grid(bucket_config(**settings), 8)


def test_the_usual_settings_give_the_usual_buckets() -> None:
    sizes = [str(bucket) for bucket in grid(resolution=512, step=64, min_side=256, max_side=1024).sizes]
    assert "512x512" in sizes
    assert "448x576" in sizes
    assert "1024x256" in sizes
    assert "256x256" not in sizes


def test_a_step_that_is_no_multiple_of_the_familys_becomes_the_common_multiple() -> None:
    assert make_grid(bucket_config(step=24), 16).step == 48
    assert make_grid(bucket_config(step=64), 16).step == 64


def test_a_tie_goes_to_the_wider_bucket() -> None:
    square = BucketGrid((Bucket(64, 128), Bucket(128, 64)), (0.5, 2.0), 64, 64, 128, 128 * 128, True)
    assert nearest_bucket(100, 100, square) == Bucket(128, 64)


def test_a_tie_goes_to_the_larger_bucket_first() -> None:
    uneven = BucketGrid((Bucket(128, 256), Bucket(128, 64)), (0.5, 2.0), 64, 64, 256, 128 * 256, True)
    assert nearest_bucket(100, 100, uneven) == Bucket(128, 256)


def test_settings_without_any_bucket_are_an_error_with_the_fix() -> None:
    with pytest.raises(ConfigError, match=r"bucket\.min_side.*Set bucket\.min_side to 64"):
        grid(resolution=128, step=64, min_side=256)


def test_geometry_of_a_wide_picture() -> None:
    assert cover_bucket(1000, 500, Bucket(704, 320)) == Geometry((500, 1000), (352, 704), (16, 0), (320, 704))
    assert kept_share(cover_bucket(1000, 500, Bucket(704, 320))) == pytest.approx(320 / 352)
    assert enlargement(cover_bucket(100, 100, Bucket(200, 200))) == 2.0


@pytest.mark.setting("bucket.upscale")
def test_without_upscaling_a_small_picture_gets_the_largest_bucket_inside_it() -> None:
    small = grid(resolution=512, step=64, min_side=256, upscale=False)
    assert assign_bucket(500, 500, small) == Geometry((500, 500), (448, 448), (0, 0), (448, 448))
    assert assign_bucket(2000, 2000, small) == cover_bucket(2000, 2000, Bucket(512, 512))


def test_without_upscaling_a_tiny_picture_is_excluded_with_the_reason() -> None:
    placed = assign_bucket(500, 250, grid(resolution=512, step=64, min_side=256, upscale=False))
    assert isinstance(placed, str)
    assert placed.startswith("too small: 500x250")


def test_a_strip_is_excluded_instead_of_being_blown_up() -> None:
    placed = assign_bucket(100_000, 1, grid())
    assert isinstance(placed, str)
    assert placed.startswith("too narrow")


def kohya(resolution: int, low: int, high: int, step: int) -> set[Bucket]:
    """Return the sizes of kohya's make_bucket_resolutions for a square, written anew."""
    side = resolution // step * step
    found = {Bucket(side, side)}
    for width in range(low, high + 1, step):
        height = min(high, resolution * resolution // width // step * step)
        if height >= low:
            found |= {Bucket(width, height), Bucket(height, width)}
    return found


@pytest.mark.setting("bucket.resolution", "bucket.step", "bucket.min_side", "bucket.max_side", "bucket.table")
@given(st.sampled_from([8, 16, 32, 64]), st.integers(1, 8), st.integers(0, 16), st.integers(0, 16))
def test_the_grid_is_kohyas_without_smaller_sizes_of_the_same_shape(
    step: int, low: int, middle: int, high: int
) -> None:
    least, resolution, most = low * step, (low + middle) * step, (low + middle + high) * step
    if resolution < 16:
        return
    theirs = kohya(resolution, least, most, step)
    largest = {size for size in theirs if not any(other > size and _same_shape(size, other) for other in theirs)}
    config = bucket_config(resolution=resolution, step=step, min_side=least, max_side=max(most, 8))
    assert set(make_grid(config, step).sizes) == largest


def _same_shape(one: Bucket, other: Bucket) -> bool:
    return one.width * other.height == other.width * one.height


@pytest.mark.setting("bucket.table")
def test_the_sizes_of_sdxl_are_the_forty_of_the_paper() -> None:
    sizes = make_grid(bucket_config(resolution=1024, table="sdxl_sizes"), 8).sizes
    assert len(sizes) == len(set(sizes)) == 40
    # By the paper each is within 5 % of 1024 x 1024 pixels, in steps of 64; they lie around the square, which is one.
    assert all(size.width % 64 == size.height % 64 == 0 for size in sizes)
    assert all(0.9 < size.width * size.height / 1024**2 <= 1.0 for size in sizes)
    assert {(512, 2048), (1024, 1024), (832, 1216), (1344, 704), (2048, 512)} <= {(s.width, s.height) for s in sizes}
    assert Bucket(704, 1344) not in sizes
    ratios = [size.width / size.height for size in sizes]
    assert ratios == sorted(ratios)


@pytest.mark.setting("bucket.table")
def test_the_sizes_of_sdxl_are_for_its_resolution_alone() -> None:
    with pytest.raises(ConfigError, match=r"bucket.resolution: is 768.*sdxl"):
        make_grid(bucket_config(resolution=768, table="sdxl_sizes"), 8)
    with pytest.raises(ConfigError, match=r"multiples of 48"):
        make_grid(bucket_config(resolution=1024, table="sdxl_sizes"), 48)


@pytest.mark.setting("bucket.table")
@given(SIDES, SIDES, st.booleans())
def test_the_square_alone_crops_every_picture_to_a_square(width: int, height: int, upscale: bool) -> None:
    found = assign_bucket(width, height, grid(table="square", resolution=320, min_side=128, upscale=upscale))
    if isinstance(found, str):
        assert found.startswith("too ")
        return
    assert found.target[0] == found.target[1] <= 320
    if upscale or min(width, height) >= 320:
        assert found.target == (320, 320)


@pytest.mark.setting("bucket.table")
def test_a_square_outside_the_limits_is_an_error() -> None:
    with pytest.raises(ConfigError, match="has a side of 192"):
        make_grid(bucket_config(resolution=200, table="square"), 8)
