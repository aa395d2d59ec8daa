"""Regularisation pictures: as many draws of an epoch as the others have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.data.helpers import build, look, pair, reasons, texts
from trainer_core.config.groups import CaptionConfig
from trainer_core.data.epoch.batch_order import BatchOrder
from trainer_core.data.epoch.regularisation import spread_repeats
from trainer_core.data.manifest import Manifest


def folders(folder: Path, concept: int, others: int) -> None:
    for number in range(concept):
        pair(folder / "cat", f"{number}.png", colour=(number, 0, 0))
    for number in range(others):
        pair(folder / "class", f"{number}.png", colour=(0, number, 9))


def made(folder: Path, concept: int, others: int, repeats: int = 1, own: int = 1, **settings: Any) -> Manifest:
    folders(folder, concept, others)
    return build(
        look(folder / "cat", name="cat", repeats=repeats, held_out=0),
        look(folder / "class", name="class", repeats=own, regularisation=True, **settings),
        caption=CaptionConfig(trigger_word="zorb"),
    )


def kohya(own: list[int], wanted: int) -> list[int]:
    """Return kohya's repeats: DreamBoothDataset's loop over the regularisation pictures, written anew."""
    repeats, seen, first = [0] * len(own), 0, True
    while seen < wanted:
        for place, count in enumerate(own):
            repeats[place] += count if first else 1
            seen += count if first else 1
            if seen >= wanted:
                break
        first = False
    return repeats


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 300))
def test_the_draws_are_exactly_as_many_as_wanted(own: list[int], wanted: int) -> None:
    names = {f"{place}.png": count for place, count in enumerate(own)}
    repeats = spread_repeats(names, wanted)
    assert sum(repeats.values()) == wanted and repeats.keys() == names.keys() and min(repeats.values()) >= 0
    if wanted >= sum(own):
        more = [repeats[name] - count for name, count in names.items()]
        assert max(more) - min(more) <= 1
    assert spread_repeats(dict(reversed(list(names.items()))), wanted) == repeats


@given(st.integers(1, 30), st.integers(1, 300))
def test_with_single_repeats_the_counts_are_kohyas(pictures: int, wanted: int) -> None:
    ours = spread_repeats({f"{place}.png": 1 for place in range(pictures)}, wanted)
    assert sorted(ours.values()) == sorted(kohya([1] * pictures, wanted))


@pytest.mark.setting("datasets.regularisation", "datasets.repeats")
def test_an_epoch_has_as_many_regularisation_draws_as_others(tmp_path: Path) -> None:
    manifest = made(tmp_path, concept=5, others=3, repeats=2)
    by_kind: dict[bool, int] = {True: 0, False: 0}
    for sample in manifest.samples:
        by_kind[sample.regularisation] += sample.repeats
    assert by_kind == {True: 10, False: 10}
    order = BatchOrder.of(manifest.samples, 1, 0)
    draws = [order.micro_batch(number)[0].sample_id for number in range(order.batches_per_epoch)]
    assert sum(name.startswith("class/") for name in draws) == len(draws) / 2 == 10
    assert "3 regularisation pictures are seen 3 to 4 times an epoch, 10 times" in texts(manifest.findings, "info")


@pytest.mark.setting("datasets.regularisation")
def test_pictures_that_an_epoch_does_not_need_are_left_out_by_name(tmp_path: Path) -> None:
    manifest = made(tmp_path, concept=2, others=5)
    assert sum(sample.regularisation for sample in manifest.samples) == 2
    assert {reason.partition(":")[0] for reason in reasons(manifest).values()} == {"not needed"}
    assert len(reasons(manifest)) == 3 and manifest.total == 7
    assert "3 regularisation pictures are not used" in texts(manifest.findings, "warning")


@pytest.mark.setting("datasets.regularisation", "datasets.held_out")
def test_they_are_never_held_out(tmp_path: Path) -> None:
    folders(tmp_path, 8, 8)
    manifest = build(
        look(tmp_path / "cat", name="cat", held_out=0.25),
        look(tmp_path / "class", name="class", held_out=0.5, regularisation=True),
    )
    held = {sample.id.partition("/")[0] for sample in manifest.samples if sample.split == "held_out"}
    assert held == {"cat"}
    assert sum(sample.repeats for sample in manifest.samples if sample.regularisation) == 6


@pytest.mark.setting("datasets.regularisation", "datasets.trigger_word")
@pytest.mark.parametrize(("word", "caption"), [(None, "a cat"), ("beast", "beast, a cat")])
def test_they_have_no_trigger_word_unless_one_is_given(tmp_path: Path, word: str | None, caption: str) -> None:
    manifest = made(tmp_path, concept=1, others=1, trigger_word=word)
    assert {sample.id: sample.caption for sample in manifest.samples} == {
        "cat/0.png": "zorb, a cat",
        "class/0.png": caption,
    }


@pytest.mark.setting("datasets.regularisation")
def test_regularisation_pictures_alone_are_an_error(tmp_path: Path) -> None:
    folders(tmp_path, 0, 4)
    manifest = build(look(tmp_path / "class", regularisation=True))
    assert "there is no concept to learn" in texts(manifest.findings, "error")


@pytest.mark.setting("datasets.loss_weight", "datasets.regularisation")
def test_weight_and_kind_of_a_dataset_reach_its_samples_and_the_data_version(tmp_path: Path) -> None:
    folders(tmp_path, 4, 4)
    versions = set()
    for weight in (1.0, 0.5):
        for kind in (False, True):
            manifest = build(
                look(tmp_path / "cat", name="cat", held_out=0),
                look(tmp_path / "class", name="class", held_out=0, loss_weight=weight, regularisation=kind),
            )
            versions.add(manifest.data_version)
            found = {(one.id.partition("/")[0], one.loss_weight, one.regularisation) for one in manifest.samples}
            assert found == {("cat", 1.0, False), ("class", weight, kind)}
    assert len(versions) == 4
