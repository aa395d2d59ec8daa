"""One picture at several resolutions: a sample for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.data.helpers import bucket_config, build, draw, look, pair, reasons, texts
from trainer_core.config.groups import BucketConfig
from trainer_core.data.build_manifest import name_by_resolution
from trainer_core.data.discovery.discovery_types import Exclusion
from trainer_core.data.draft import Draft
from trainer_core.data.pictures.buckets import cover_bucket, make_grid
from trainer_core.data.pictures.multi_resolution import ResolutionGrid, picture_id, resolution_findings
from trainer_core.data.reports.tables import statistics
from trainer_core.types import Bucket

BUCKETS = bucket_config(resolution=64, step=8, min_side=32, max_side=256)


@pytest.mark.setting("datasets.resolutions")
def test_each_resolution_has_samples_and_buckets_of_its_own(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", (400, 200))
    (tmp_path / "a.txt").write_text("a cat")
    manifest = build(look(tmp_path, held_out=0, resolutions=[64, 128]), bucket=BUCKETS)
    assert [(sample.id, str(sample.bucket)) for sample in manifest.samples] == [
        ("set/a.png@128", "176x88"),
        ("set/a.png@64", "88x40"),
    ]
    assert manifest.total == 2


@pytest.mark.setting("datasets.resolutions")
def test_one_resolution_stands_in_place_of_the_projects_without_a_suffix(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    manifest = build(look(tmp_path, held_out=0, resolutions=128), bucket=BUCKETS)
    assert [(sample.id, str(sample.bucket)) for sample in manifest.samples] == [("set/a.png", "128x128")]
    own = build(look(tmp_path, held_out=0), bucket=BUCKETS.model_copy(update={"resolution": 128}))
    assert own.data_version == manifest.data_version


@pytest.mark.setting("datasets.resolutions", "datasets.held_out")
def test_a_content_is_held_out_at_all_resolutions(tmp_path: Path) -> None:
    for number in range(8):
        pair(tmp_path, f"{number}.png", colour=(number, 0, 0))
    manifest = build(look(tmp_path, held_out=0.25, resolutions=[64, 128]), bucket=BUCKETS)
    held = {sample.id for sample in manifest.samples if sample.split == "held_out"}
    assert len(held) == 4 and len({picture_id(name) for name in held}) == 2
    one = build(look(tmp_path, held_out=0.25), bucket=BUCKETS)
    assert {sample.id for sample in one.samples if sample.split == "held_out"} == {picture_id(name) for name in held}


def test_what_is_wrong_at_every_resolution_is_told_once(tmp_path: Path) -> None:
    pair(tmp_path, "bad.png").write_bytes(b"nothing")
    for name, side in (("large", 200), ("small", 80)):
        draw(tmp_path / f"{name}.png", (side, side))
        (tmp_path / f"{name}.txt").write_text("a cat")
    bucket = BUCKETS.model_copy(update={"upscale": False, "min_side": 96})
    manifest = build(look(tmp_path, held_out=0, resolutions=[128, 104]), bucket=bucket)
    assert set(reasons(manifest)) == {"set/bad.png", "set/small.png"}
    assert [sample.id for sample in manifest.samples] == ["set/large.png@104", "set/large.png@128"]
    assert manifest.total == 4


def test_what_is_wrong_at_one_resolution_leaves_the_other_sample(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    grid = make_grid(BUCKETS, 8)
    draft = Draft(look(tmp_path).pictures[0], "", "", cover_bucket(64, 64, Bucket(64, 64)), (), ())
    made, gone = name_by_resolution(
        "set/a.png", [(ResolutionGrid("@64", grid), draft), (ResolutionGrid("@128", grid), "too narrow: a strip")]
    )
    assert [one.sample_id for one in made] == ["set/a.png@64"]
    assert gone == [Exclusion("set/a.png@128", "too narrow: a strip")]


def test_a_picture_at_two_resolutions_is_no_duplicate(tmp_path: Path) -> None:
    pair(tmp_path, "a.png")
    manifest = build(look(tmp_path, held_out=0, resolutions=[64, 128]), bucket=BUCKETS)
    assert "same picture" not in texts(manifest.findings, "warning")
    assert statistics(manifest)["duplicate_groups"] == 0


@pytest.mark.setting("datasets.resolutions", "bucket.max_side", "bucket.min_side")
@pytest.mark.parametrize(
    ("resolutions", "bucket", "seen"),
    [
        ((512, 2048), bucket_config(), "above bucket.max_side = 1024"),
        ((128, 512), bucket_config(), "below bucket.min_side = 256"),
        ((1024, 768), bucket_config(table="sdxl_sizes"), "is 768"),
    ],
)
def test_a_resolution_without_buckets_is_an_error(
    resolutions: tuple[int, ...], bucket: BucketConfig, seen: str
) -> None:
    found = list(resolution_findings("datasets.0.resolutions", resolutions, bucket))
    assert [finding.level for finding in found] == ["error"] and seen in found[0].message
    assert not list(resolution_findings("x", (512,), bucket_config()))


def test_the_resolution_stands_behind_the_ending() -> None:
    assert picture_id("set/a@2.png@768") == "set/a@2.png"
    assert picture_id("set/a@2.png") == "set/a@2.png"
