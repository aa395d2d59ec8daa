"""Which control picture belongs to which picture, and what is told of those that belong to none."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.data.helpers import SMALL_BUCKETS, draw, pair, read_all, reasons, texts
from trainer_core.config.groups import CaptionConfig, DatasetConfig
from trainer_core.data.build_manifest import build_manifest
from trainer_core.data.discovery.controls import ControlRules, control_geometry
from trainer_core.data.discovery.discover import Discovery, discover, folder_fingerprint, newest_change
from trainer_core.data.draft import ManifestRules
from trainer_core.data.manifest import Manifest
from trainer_core.errors import DatasetError
from trainer_core.types import Control, Geometry


def halves(width: int, height: int, side: int) -> tuple[int, int]:
    return (side, side) if side else (width // 2, height // 2)


ONE = ControlRules(max_controls=1, required=False, fit=halves)
THREE = ControlRules(max_controls=3, required=True, fit=halves)


def look(folder: Path, rules: ControlRules | None = ONE, controls: object = None) -> Discovery:
    settings = {"path": folder / "set", "name": "set", "control_path": controls or [folder / "before"], "held_out": 0}
    return discover(DatasetConfig.model_validate(settings), CaptionConfig(), rules)


def build(folder: Path, rules: ControlRules = ONE, controls: object = None) -> Manifest:
    found = look(folder, rules, controls)
    return build_manifest([found], read_all([found]), ManifestRules(CaptionConfig(), SMALL_BUCKETS, 8, rules))


def controls_of(found: Discovery) -> dict[str, list[str]]:
    return {one.id: [f"{file.path.parent.name}/{file.path.name}" for file in one.controls] for one in found.pictures}


def test_a_control_picture_has_the_relative_name_of_its_picture_and_any_ending(tmp_path: Path) -> None:
    pair(tmp_path / "set", "a.png")
    pair(tmp_path / "set/sub", "a.webp")
    draw(tmp_path / "before/a.jpg")
    draw(tmp_path / "before/sub/a.bmp")
    found = look(tmp_path)
    assert controls_of(found) == {"set/a.png": ["before/a.jpg"], "set/sub/a.webp": ["sub/a.bmp"]}
    assert not texts(found.findings, "warning") and not texts(found.findings, "error")


def test_several_folders_are_several_control_pictures_in_order(tmp_path: Path) -> None:
    pair(tmp_path / "set", "a.png")
    for folder in ("one", "two", "three"):
        draw(tmp_path / folder / "a.png")
    folders = [tmp_path / name for name in ("two", "three", "one")]
    assert controls_of(look(tmp_path, THREE, folders)) == {"set/a.png": ["two/a.png", "three/a.png", "one/a.png"]}


@pytest.mark.parametrize(
    "names", [("a_0", "a_1", "a_2"), ("a_1", "a_2", "a_3"), ("a_0000", "a_0001", "a_0002"), ("a_1", "a_02")]
)
def test_numbered_control_pictures_of_one_folder_come_in_the_order_of_their_numbers(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    pair(tmp_path / "set", "a.png")
    for name in reversed(names):
        draw(tmp_path / f"before/{name}.png")
    assert controls_of(look(tmp_path, THREE)) == {"set/a.png": [f"before/{name}.png" for name in names]}


def test_numbers_mean_nothing_to_a_family_that_takes_one_control_picture(tmp_path: Path) -> None:
    pair(tmp_path / "set", "a.png")
    draw(tmp_path / "before/a_0.png")
    found = look(tmp_path)
    assert controls_of(found) == {"set/a.png": []}
    assert "no picture of their name" in texts(found.findings, "warning")


def test_the_control_picture_of_a_picture_that_is_called_like_a_number_is_its_own(tmp_path: Path) -> None:
    for name in ("a.png", "a_0.png"):
        pair(tmp_path / "set", name)
        draw(tmp_path / "before" / name)
    assert controls_of(look(tmp_path, THREE)) == {"set/a.png": ["before/a.png"], "set/a_0.png": ["before/a_0.png"]}


@pytest.mark.parametrize(("rules", "level"), [(ONE, "warning"), (replace(ONE, required=True), "error")])
def test_every_orphan_is_named_on_both_sides(tmp_path: Path, rules: ControlRules, level: str) -> None:
    for name in ("a.png", "b.png", "c.png"):
        pair(tmp_path / "set", name)
    for name in ("a.png", "x.png", "y.png"):
        draw(tmp_path / "before" / name)
    found = look(tmp_path, rules)
    alone = [str(finding) for finding in found.findings if "no control picture" in finding.message]
    assert len(alone) == 1 and "2 picture(s)" in alone[0] and alone[0].startswith(level)
    assert "b.png, c.png" in alone[0] and "datasets.set.control_path" in alone[0]
    orphans = texts(found.findings, "warning")
    assert f"{tmp_path}/before/x.png, {tmp_path}/before/y.png" in orphans
    assert len(found.pictures) == 3


@pytest.mark.parametrize(
    ("controls", "rules", "told"),
    [
        (("a.png", "a.jpg"), ONE, "there twice"),
        (("a_1.png", "a_01.png"), THREE, "there twice"),
        (("a.png", "a_0.png"), THREE, "there twice"),
        (("a_0.png", "a_2.png"), THREE, "lack a control picture before the last"),
        (("a_2.png", "a_3.png"), THREE, "lack a control picture before the last"),
        (("a_0.png", "a_1.png", "a_2.png", "a_3.png"), THREE, "more control pictures than the 3"),
    ],
)
def test_what_cannot_be_told_apart_is_an_error(
    tmp_path: Path, controls: tuple[str, ...], rules: ControlRules, told: str
) -> None:
    pair(tmp_path / "set", "a.png")
    for name in controls:
        draw(tmp_path / "before" / name)
    assert told in texts(look(tmp_path, rules).findings, "error")


def test_pictures_of_one_name_cannot_share_a_control_picture(tmp_path: Path) -> None:
    pair(tmp_path / "set", "a.png")
    draw(tmp_path / "set/a.jpg")
    draw(tmp_path / "before/a.png")
    assert "would share a control picture: a.jpg, a.png" in texts(look(tmp_path).findings, "error")


def test_a_missing_last_control_picture_is_a_warning_and_a_missing_first_an_error(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        pair(tmp_path / "set", name)
    draw(tmp_path / "one/a.png")
    draw(tmp_path / "two/b.png")
    found = look(tmp_path, THREE, [tmp_path / "one", tmp_path / "two"])
    assert "fewer control pictures than there are folders: a.png." in texts(found.findings, "warning")
    assert "before the last, so that the others would move up: b." in texts(found.findings, "error")


@pytest.mark.parametrize("inner", ["set/_controls", "set/before", "set/deep/before"])
def test_a_control_folder_inside_the_dataset_is_not_trained_on(tmp_path: Path, inner: str) -> None:
    pair(tmp_path / "set", "a.png")
    pair(tmp_path / "set/other", "b.png")
    draw(tmp_path / inner / "a.png")
    draw(tmp_path / inner / "other/b.png")
    found = look(tmp_path, ONE, tmp_path / inner)
    assert {name: len(controls) for name, controls in controls_of(found).items()} == {
        "set/a.png": 1,
        "set/other/b.png": 1,
    }
    assert found.excluded == () and "2 pictures found" in texts(found.findings, "info")
    assert not texts(found.findings, "warning")


def test_a_control_folder_that_is_reached_by_a_link_is_known_too(tmp_path: Path) -> None:
    pair(tmp_path / "set", "a.png")
    draw(tmp_path / "set/before/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "set/before")
    found = look(tmp_path, ONE, tmp_path / "link")
    assert list(controls_of(found)) == ["set/a.png"] and len(found.pictures[0].controls) == 1


def test_a_dataset_inside_its_control_folder_is_no_control_picture(tmp_path: Path) -> None:
    pair(tmp_path / "set", "a.png")
    draw(tmp_path / "a.png")
    found = look(tmp_path, ONE, tmp_path)
    assert [file.path for file in found.pictures[0].controls] == [tmp_path / "a.png"]
    assert not texts(found.findings, "warning")


def test_a_missing_control_folder_is_named(tmp_path: Path) -> None:
    pair(tmp_path / "set", "a.png")
    with pytest.raises(DatasetError, match="before: there is no such folder of control pictures"):
        look(tmp_path)


def test_pictures_whose_control_picture_cannot_be_read_are_excluded_with_the_reason(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        pair(tmp_path / "set", f"{name}.png", colour=(ord(name), 0, 0))
    draw(tmp_path / "before/a.png")
    (tmp_path / "before/b.png").write_bytes(b"no picture at all")
    (tmp_path / "before/c.heic").write_bytes(b"whatever")
    (tmp_path / "before/d.png").symlink_to(tmp_path / "gone.png")
    manifest = build(tmp_path)
    assert [sample.id for sample in manifest.samples] == ["set/a.png"]
    told = reasons(manifest)
    assert told["set/b.png"].startswith("control picture not a picture: b.png: ")
    assert told["set/c.png"] == (
        "control picture no decoder: c.heic: .heic pictures are not read; save them as PNG or JPEG"
    )
    assert told["set/d.png"].startswith("control picture broken link: d.png: ")
    assert manifest.total == 4


def test_a_sample_knows_its_control_pictures_with_their_sizes(tmp_path: Path) -> None:
    pair(tmp_path / "set", "a.png")
    path = draw(tmp_path / "before/a.png", size=(80, 40))
    (control,) = build(tmp_path).samples[0].controls
    assert (control.path, control.original, control.encoded) == (path, (40, 80), (20, 40))
    (asked,) = build(tmp_path, replace(ONE, side=32)).samples[0].controls
    assert asked.encoded == (32, 32)


def test_the_data_version_holds_content_and_encoded_size_of_control_pictures_and_no_names(tmp_path: Path) -> None:
    pair(tmp_path / "set", "a.png")
    path = draw(tmp_path / "before/a.png", size=(80, 40))
    first = build(tmp_path).data_version
    assert build(tmp_path, replace(ONE, side=32)).data_version != first
    path.rename(tmp_path / "before/a.bmp")
    (tmp_path / "before").rename(tmp_path / "moved")
    assert build(tmp_path, ONE, tmp_path / "moved").data_version == first
    draw(path, size=(80, 40), colour=(1, 2, 3))
    assert build(tmp_path).data_version != first


def test_the_data_version_of_pictures_without_controls_is_what_it_was(tmp_path: Path) -> None:
    pair(tmp_path / "set", "a.png")
    (tmp_path / "before").mkdir()
    found = discover(DatasetConfig(path=tmp_path / "set", name="set", held_out=0), CaptionConfig())
    plain = build_manifest([found], read_all([found]), ManifestRules(CaptionConfig(), SMALL_BUCKETS, 8))
    assert build(tmp_path).data_version == plain.data_version


def test_two_edits_with_one_result_are_no_duplicates_and_two_equal_pairs_are(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        pair(tmp_path / "set", name)
        draw(tmp_path / "before" / name, colour=(ord(name[0]), 0, 0))
    assert "same picture" not in texts(build(tmp_path).findings, "warning")
    draw(tmp_path / "before/b.png", colour=(ord("a"), 0, 0))
    assert "set/a.png = set/b.png" in texts(build(tmp_path).findings, "warning")


def test_the_fingerprint_sees_control_folders_come_change_and_go(tmp_path: Path) -> None:
    pair(tmp_path / "set", "a.png")
    datasets = [DatasetConfig(path=tmp_path / "set", control_path=(tmp_path / "before",))]
    seen = [folder_fingerprint(datasets)]
    path = draw(tmp_path / "before/a.png")
    seen.append(folder_fingerprint(datasets))
    os.utime(path, ns=(1, 1))
    seen.append(folder_fingerprint(datasets))
    assert len(set(seen)) == 3
    assert newest_change(datasets) >= path.stat().st_ctime_ns / 1e9


def test_a_control_picture_is_squeezed_or_cut_to_its_encoded_size() -> None:
    control = Control(Path("a.png"), "0", original=(40, 100), encoded=(32, 64))
    assert control_geometry(control, crop=False) == Geometry((40, 100), (32, 64), (0, 0), (32, 64))
    assert control_geometry(control, crop=True) == Geometry((40, 100), (32, 80), (0, 8), (32, 64))
