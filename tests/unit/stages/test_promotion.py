"""When a LoRA becomes the champion, and what is told when it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer_core.config.groups import GateConfig
from trainer_core.stages.publishing.promotion import decide, find_champion, promote
from trainer_core.stages.results import ExamFigures
from trainer_core.store import Published, Store
from trainer_core.types import JSON

GATE = GateConfig(min_concept_score=0.8, max_following_loss=0.1, max_held_out_rise=0.01)
GOOD: dict[str, JSON] = {
    "exam": "e1",
    "held_out_samples": 5,
    "held_out_loss_base": 0.4,
    "held_out_loss_lora": 0.2,
    "concept_score_base": 0.0,
    "concept_score_lora": 0.9,
    "following_base": 0.95,
    "following_lora": 0.9,
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def published(store: Store, stage: str, version: str, metadata: dict[str, JSON]) -> Published:
    with store.objects.staging(stage, version) as staging:
        (staging / "file").write_text(version)
        return store.objects.publish(stage, version, staging, data_version=version, recipe={}, metadata=metadata)


def candidate(store: Store, number: int, **figures: JSON) -> tuple[Published, Published]:
    lora = published(store, "lora_checkpoint", f"{number:064x}", {})
    return lora, published(store, "metrics", f"{number + 99:064x}", GOOD | figures)


def test_a_lora_that_keeps_within_all_limits_is_promoted() -> None:
    assert decide(ExamFigures.from_json(GOOD), 0.199, GATE).promoted


@pytest.mark.parametrize(
    ("figures", "champion", "told"),
    [
        ({"held_out_loss_lora": 0.4}, None, "no lower than the base's 0.40000"),
        ({}, 0.19, "0.20000 is +5.3% against the champion's 0.19000"),
        ({"concept_score_lora": 0.79}, None, "concept score of 79.0% is below gate.min_concept_score, 80.0%"),
        ({"following_lora": 0.8}, None, "follows prompts without the concept at 80.0%, the base at 95.0%"),
    ],
)
@pytest.mark.setting("gate.min_concept_score", "gate.max_following_loss", "gate.max_held_out_rise")
def test_each_limit_that_is_broken_is_named(figures: dict[str, JSON], champion: float | None, told: str) -> None:
    verdict = decide(ExamFigures.from_json(GOOD | figures), champion, GATE)
    assert not verdict.promoted
    assert told in " ".join(verdict.reasons)
    assert len(verdict.reasons) == 1


def test_all_broken_limits_are_told_at_once() -> None:
    figures = GOOD | {"held_out_loss_lora": 0.5, "concept_score_lora": 0.1, "following_lora": 0.1}
    assert len(decide(ExamFigures.from_json(figures), 0.2, GATE).reasons) == 4


def test_what_was_not_measured_forbids_nothing() -> None:
    assert decide(ExamFigures(0, ""), None, GATE).promoted


def test_the_first_good_lora_becomes_the_champion_and_gc_keeps_it(store: Store) -> None:
    lora, metrics = candidate(store, 1)
    assert promote(store, "cats", lora, metrics, GATE).promoted
    champion = find_champion(store, "cats")
    assert champion is not None
    assert champion.lora.key == lora.key
    assert {(lora.stage, lora.key), (metrics.stage, metrics.key)} <= {
        (stage, key) for (_, stage), key in store.refs.all().items()
    }


def test_a_worse_lora_leaves_the_champion_where_it_is(store: Store) -> None:
    first = candidate(store, 1)
    promote(store, "cats", *first, GATE)
    verdict = promote(store, "cats", *candidate(store, 2, held_out_loss_lora=0.3), GATE)
    assert not verdict.promoted
    champion = find_champion(store, "cats")
    assert champion is not None
    assert champion.lora.key == first[0].key


def test_looking_again_at_the_champion_says_the_same(store: Store) -> None:
    first = candidate(store, 1)
    assert promote(store, "cats", *first, GATE) == promote(store, "cats", *first, GATE)


def test_the_champion_too_is_held_against_limits_that_became_stricter(store: Store) -> None:
    first = candidate(store, 1)
    assert promote(store, "cats", *first, GATE).promoted
    assert not promote(store, "cats", *first, GATE.model_copy(update={"min_concept_score": 0.95})).promoted


def test_going_back_to_an_older_lora_does_not_promote_it_over_a_better_one(store: Store) -> None:
    older, better = candidate(store, 1), candidate(store, 2, held_out_loss_lora=0.1)
    assert promote(store, "cats", *older, GATE).promoted
    assert promote(store, "cats", *better, GATE).promoted
    assert not promote(store, "cats", *older, GATE).promoted


def test_losses_of_other_held_out_pictures_are_not_compared(store: Store) -> None:
    promote(store, "cats", *candidate(store, 1, held_out_loss_lora=0.01), GATE)
    assert promote(store, "cats", *candidate(store, 2, exam="e2"), GATE).promoted


def test_a_champion_that_was_measured_again_on_the_new_pictures_is_compared(store: Store) -> None:
    first, _ = candidate(store, 1)
    promote(store, "cats", first, candidate(store, 1)[1], GATE)
    again: JSON = {"weights_sha256": first.data_version, "held_out_loss": 0.1}
    verdict = promote(store, "cats", *candidate(store, 2, exam="e2", champion=again), GATE)
    assert not verdict.promoted


def test_champions_of_two_projects_are_two(store: Store) -> None:
    promote(store, "cats", *candidate(store, 1), GATE)
    assert find_champion(store, "dogs") is None
