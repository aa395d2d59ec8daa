"""When a LoRA becomes the champion, and which reasons are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from trainer_core.config.groups import GateConfig
from trainer_core.stages.publishing.promotion import Rival, decide, find_champion, promote
from trainer_core.stages.results import BaseAndLora, ChampionLoss, ExamFigures, PictureScores
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
    assert decide(ExamFigures.from_json(GOOD), Rival(0.199), GATE).promoted


@pytest.mark.parametrize(
    ("figures", "champion", "reason"),
    [
        ({"held_out_loss_lora": 0.4}, None, "no lower than the base's 0.40000"),
        ({}, 0.19, "0.20000 is +5.3% against the champion's 0.19000"),
        ({"concept_score_lora": 0.79}, None, "concept score is 79.0%, below gate.min_concept_score, 80.0%"),
        ({"following_lora": 0.8}, None, "follows prompts without the concept at 80.0%, the base at 95.0%"),
    ],
)
@pytest.mark.setting("gate.min_concept_score", "gate.max_following_loss", "gate.max_held_out_rise")
def test_each_limit_that_is_broken_is_named(figures: dict[str, JSON], champion: float | None, reason: str) -> None:
    verdict = decide(ExamFigures.from_json(GOOD | figures), Rival(champion), GATE)
    assert not verdict.promoted
    assert reason in " ".join(verdict.reasons)
    assert len(verdict.reasons) == 1


def test_all_broken_limits_are_named_at_once() -> None:
    figures = GOOD | {"held_out_loss_lora": 0.5, "concept_score_lora": 0.1, "following_lora": 0.1}
    assert len(decide(ExamFigures.from_json(figures), Rival(0.2), GATE).reasons) == 4


def test_what_was_not_measured_forbids_nothing() -> None:
    verdict = decide(ExamFigures(0, ""), Rival(), GATE)
    assert verdict.promoted
    assert verdict.reasons == ("nothing was measured that could speak against it",)


def test_a_promoted_lora_is_described_by_what_was_measured() -> None:
    reasons = decide(examined([1.0] * 46 + [0.0] * 2), Rival(), GATE).reasons
    assert reasons == (
        "its held-out loss of 0.20000 is 50.0% below the base's 0.40000",
        "its concept score is 95.8% (95% interval 86.0% to 98.8%, 48 pictures)",
        "it follows prompts without the concept at 90.0%, the base at 95.0%",
    )


def examined(scores: Sequence[float], **changed: Any) -> ExamFigures:
    """Return a good candidate with these concept scores."""
    figures = ExamFigures.from_json(GOOD)
    both = PictureScores((0.0,) * len(scores), tuple(scores))
    concept = BaseAndLora(0.0, fmean(scores))
    figures = replace(figures, figures={**figures.figures, "concept_score": concept}, picture_exam="p1")
    return replace(figures, scores={"concept_score": both}, **changed)


def test_a_refused_score_is_told_with_its_interval() -> None:
    (reason,) = decide(examined([1.0] * 9 + [0.0] * 3), Rival(), GATE).reasons
    assert reason == (
        "its concept score is 75.0% (95% interval 46.8% to 91.1%, 12 pictures), below gate.min_concept_score, 80.0%"
    )


@pytest.mark.parametrize(("right", "promoted"), [(48, True), (47, True), (45, True), (42, False), (40, False)])
def test_a_concept_score_below_the_champions_refuses_only_if_the_exam_can_tell(right: int, promoted: bool) -> None:
    scores = [0.0] * (48 - right) + [1.0] * right
    verdict = decide(examined(scores), Rival(concept_scores=(1.0,) * 48), GATE)
    assert verdict.promoted is promoted
    if not promoted:
        assert "clearly below the champion's 100.0% on the same 48 pictures" in verdict.reasons[0]


def test_a_better_concept_score_is_never_refused() -> None:
    assert decide(examined([1.0] * 48), Rival(concept_scores=(0.5,) * 48), GATE).promoted


LOSSES = {f"cats/{number}.png": 0.1 * number for number in range(1, 6)}


def with_losses(risen: Mapping[str, float], champion: Mapping[str, float] = LOSSES) -> tuple[ExamFigures, Rival]:
    """Return a candidate whose losses are the champion's and a rise, and what is known of the champion."""
    by_sample = {name: BaseAndLora(9.0, LOSSES[name] + risen[name]) for name in LOSSES}
    loss = BaseAndLora(9.0, fmean(both.lora for both in by_sample.values()))
    candidate = ExamFigures(5, "", "e1", {"held_out_loss": loss}, by_sample)
    return candidate, Rival(fmean(LOSSES.values()), champion)


def test_a_rise_of_the_loss_within_the_noise_of_the_held_out_samples_does_not_refuse() -> None:
    # 0.02 in the mean, 6.7 % of 0.3; the rises differ by 0.07 a sample, so that chance explains up to 0.09.
    risen = dict(zip(LOSSES, (0.1, -0.06, 0.08, -0.04, 0.02), strict=True))
    assert decide(*with_losses(risen), GATE).promoted


def test_the_same_rise_refuses_where_every_sample_shows_it() -> None:
    risen = dict(zip(LOSSES, (0.02, 0.021, 0.019, 0.022, 0.018), strict=True))
    (reason,) = decide(*with_losses(risen), GATE).reasons
    assert "is +6.7% against the champion's 0.30000" in reason
    assert "gate.max_held_out_rise allows +1.0%, the noise of the held-out samples is +0.7%" in reason


def test_a_clear_rise_within_the_limit_does_not_refuse() -> None:
    assert decide(
        *with_losses(dict.fromkeys(LOSSES, 0.02)), GATE.model_copy(update={"max_held_out_rise": 0.1})
    ).promoted


@pytest.mark.parametrize("known", [{}, {"dogs/1.png": 0.1}])
def test_the_limit_alone_decides_where_the_champions_samples_are_not_known(known: dict[str, float]) -> None:
    (reason,) = decide(*with_losses(dict.fromkeys(LOSSES, 0.02), known), GATE).reasons
    assert "the noise of the held-out samples is not known" in reason


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


def test_concept_scores_of_other_pictures_are_not_compared(store: Store) -> None:
    for number, (exam, scores) in enumerate((("p1", [1.0] * 48), ("p2", [0.8] * 48), ("p2", [0.9] * 48))):
        stored = examined(scores, picture_exam=exam).to_json()
        assert promote(store, "cats", *candidate(store, number, **stored), GATE).promoted
    worse = examined([0.8] * 48, picture_exam="p2").to_json()
    (reason,) = promote(store, "cats", *candidate(store, 4, **worse), GATE).reasons
    assert "clearly below the champion's 90.0%" in reason


def test_losses_of_a_champion_that_was_measured_again_are_compared_sample_by_sample(store: Store) -> None:
    first = candidate(store, 1)
    promote(store, "cats", *first, GATE)
    noisy, rival = with_losses(dict(zip(LOSSES, (0.1, -0.06, 0.08, -0.04, 0.02), strict=True)))
    assert rival.held_out_loss is not None
    for by_sample, promoted in (({}, False), (LOSSES, True)):
        again = ChampionLoss(first[0].data_version, rival.held_out_loss, by_sample)
        stored = replace(noisy, exam="e2", champion=again).to_json()
        verdict = promote(store, "cats", *candidate(store, 2 + promoted, **stored), GATE)
        assert verdict.promoted is promoted


def test_champions_of_two_projects_are_two(store: Store) -> None:
    promote(store, "cats", *candidate(store, 1), GATE)
    assert find_champion(store, "dogs") is None
