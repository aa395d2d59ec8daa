"""The resolution that a base decides."""

from __future__ import annotations

from typing import Any

import pytest

from trainer_core.config.groups import BucketConfig, DatasetConfig, ModelConfig
from trainer_core.config.native import with_native_resolution
from trainer_core.config.project import Project
from trainer_core.config.reads import slice_key
from trainer_core.config.rules import Facts, check_rules
from trainer_core.data.pictures.buckets import make_grid
from trainer_core.families import family_names, get_family
from trainer_core.families.facts import native_resolution
from trainer_core.types import Bucket


def project(resolutions: tuple[int, ...] = (), **bucket: Any) -> Project:
    dataset = DatasetConfig(path="pictures", resolutions=resolutions)
    model = ModelConfig(family="sdxl", path="base")
    return Project(name="one", model=model, datasets=(dataset,), bucket=BucketConfig.model_validate(bucket))


def test_sdxl_gets_the_buckets_it_was_trained_on() -> None:
    grid = make_grid(with_native_resolution(project(), 1024).bucket, 8)
    assert {Bucket(1024, 1024), Bucket(1216, 832), Bucket(832, 1216), Bucket(1344, 768)} <= set(grid.sizes)


def test_sd15_keeps_the_buckets_it_had() -> None:
    bucket = with_native_resolution(project(), 512).bucket
    assert (bucket.resolution, bucket.max_side) == (512, 1024)


@pytest.mark.parametrize(
    "written", [{}, {"resolution": None}, {"resolution": 0, "max_side": None}, {"resolution": 1024, "max_side": 2048}]
)
def test_what_is_left_out_and_the_same_number_make_one_key(written: dict[str, Any]) -> None:
    expected = slice_key(project(resolution=1024, max_side=2048), ["bucket"])
    assert slice_key(with_native_resolution(project(**written), 1024), ["bucket"]) == expected


def test_the_largest_resolution_of_a_folder_has_wide_buckets_too() -> None:
    bucket = with_native_resolution(project((512, 1280)), 1024).bucket
    assert (bucket.resolution, bucket.max_side) == (1024, 2560)


def test_what_is_written_stays() -> None:
    bucket = with_native_resolution(project(resolution=768, max_side=1024), 1024).bucket
    assert (bucket.resolution, bucket.max_side) == (768, 1024)


def test_the_base_says_what_it_was_trained_at_else_its_family_does() -> None:
    sd15, sdxl = get_family("sd15").spec, get_family("sdxl").spec
    assert native_resolution(sd15, {"sample_size": 96}, {}) == 768
    assert native_resolution(sd15, {}, {}) == 512
    assert native_resolution(sdxl, {"sample_size": 128}, {"block_out_channels": [128, 256, 512, 512]}) == 1024
    others = [name for name in family_names() if name != "sd15"]
    assert {native_resolution(get_family(name).spec, {}, {}) for name in others} == {1024}


def test_a_miniature_counts_with_the_factor_of_its_own_vae() -> None:
    assert native_resolution(get_family("sd15").spec, {"sample_size": 16}, {"block_out_channels": [8, 16, 32]}) == 64


def far(given: Project, **facts: Any) -> list[str]:
    found = check_rules(given, Facts(**facts))
    return [finding.field for finding in found if "was trained at" in finding.message]


def test_a_resolution_far_from_the_base_is_warned_of() -> None:
    assert far(project(resolution=512), resolution=1024) == ["bucket.resolution"]
    assert far(project(resolution=2048), resolution=1024) == ["bucket.resolution"]
    assert far(project(resolution=768), resolution=1024) == []
    assert far(project(resolution=512), resolution=1024, resolution_range=(0.31, 1.41)) == []
    assert far(project(), resolution=64) == []


def test_a_folder_may_have_small_resolutions_beside_one_that_fits() -> None:
    assert far(project((512, 768)), resolution=1024) == []
    assert far(project((384, 512)), resolution=1024) == ["datasets.0.resolutions"]
