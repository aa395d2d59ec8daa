"""Groups that are held out together, and whole datasets that are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.data.helpers import build, draw, look, pair, texts
from trainer_core.data.epoch.holdout import HoldoutShare, group_of_picture, held_out_pictures, merge_groups
from trainer_core.data.manifest import Manifest


def held(manifest: Manifest) -> set[str]:
    return {sample.id for sample in manifest.samples if sample.split == "held_out"}


@pytest.mark.parametrize(
    ("rule", "sample_id", "group"),
    [
        ("folder", "set/a.png", None),
        ("folder", "set/red/a.png", "red"),
        ("folder", "set/red/dark/a.png", "red/dark"),
        (r"_v\d", "set/cat_v1.png", "_v1"),
        (r"(?:shot|take)(\d+)", "set/shot12_3.png", "12"),
        (r"a(x)?b(y)", "set/aby.png", "y"),
        (r"nothing", "set/cat.png", None),
    ],
)
def test_a_rule_names_the_group_of_a_picture(rule: str, sample_id: str, group: str | None) -> None:
    assert group_of_picture(rule, sample_id) == group


@pytest.mark.setting("datasets.held_out_group")
def test_pictures_of_a_folder_are_held_out_together_or_not_at_all(tmp_path: Path) -> None:
    for number in range(24):
        pair(tmp_path, f"scene{number // 3}/{number}.png", colour=(number, 0, 0))
    alone = held(build(look(tmp_path, held_out=0.25)))
    grouped = held(build(look(tmp_path, held_out=0.25, held_out_group="folder")))
    folders = {name.split("/")[1] for name in grouped}
    assert len(grouped) == 6 and len(folders) == 2
    assert len({name.split("/")[1] for name in alone}) > 2


@pytest.mark.setting("datasets.held_out_group")
def test_the_choice_of_groups_hardly_moves_when_a_picture_comes(tmp_path: Path) -> None:
    for number in range(24):
        pair(tmp_path, f"{number // 3}_{number}.png", colour=(number, 0, 0))
    settings: dict[str, Any] = {"held_out": 0.25, "held_out_group": r"set/(\d+)_"}
    before = held(build(look(tmp_path, **settings)))
    groups = {name.partition("/")[2].partition("_")[0] for name in before}
    other = next(str(number) for number in range(8) if str(number) not in groups)
    pair(tmp_path, f"{other}_new.png", colour=(0, 200, 0))
    assert len(before) == 6 and held(build(look(tmp_path, **settings))) == before


def test_a_picture_in_two_groups_joins_them() -> None:
    names = merge_groups([("red", "1"), ("red", "2"), ("blue", "2"), ("blue", "3"), ("green", "4")])
    assert names["1"] == names["2"] == names["3"] != names["4"]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("123456789"))))
def test_everything_in_a_group_has_one_name(members: list[tuple[str, str]]) -> None:
    names = merge_groups(members)
    assert merge_groups(list(reversed(members))) == names
    for group, content in members:
        assert all(names[content] == names[other] for theirs, other in members if theirs == group)


@pytest.mark.setting("datasets.held_out")
def test_a_share_of_one_is_a_whole_validation_set(tmp_path: Path) -> None:
    for number in range(8):
        pair(tmp_path / "train", f"{number}.png", colour=(number, 0, 0))
    for number in range(3):
        pair(tmp_path / "validation", f"{number}.png", colour=(0, number, 9))
    manifest = build(
        look(tmp_path / "train", name="train", held_out=0), look(tmp_path / "validation", name="check", held_out=1)
    )
    assert held(manifest) == {f"check/{number}.png" for number in range(3)}


def test_a_copy_of_a_validation_picture_is_not_trained(tmp_path: Path) -> None:
    for folder in ("train", "validation"):
        for number in range(4):
            pair(tmp_path / folder, f"{number}.png", colour=(number, len(folder) * (number > 0), 0))
    manifest = build(
        look(tmp_path / "train", name="train", held_out=0), look(tmp_path / "validation", name="check", held_out=1)
    )
    assert held(manifest) == {"train/0.png", *(f"check/{number}.png" for number in range(4))}


def test_a_project_of_validation_pictures_alone_is_an_error(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a cat")
    assert "Every picture is held out" in texts(build(look(tmp_path, held_out=1)).findings, "error")


def test_without_groups_the_choice_is_the_one_of_before() -> None:
    parts = {"set": HoldoutShare(0.25, [f"{number:064x}" for number in range(12)])}
    # Figures of the rule before there were groups.
    assert sorted(int(one, 16) for one in held_out_pictures(parts)) == [6, 7, 9]
