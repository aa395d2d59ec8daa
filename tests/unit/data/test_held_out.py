"""How much is measured during a run: never more than its share of the time, and the same pictures at every step."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.data.helpers import sample
from trainer_core.config.groups import TrainConfig
from trainer_core.data.epoch.held_out import LEVELS, chosen_held_out, plan_evaluation
from trainer_core.types import Sample


def held(count: int, dataset: str = "cats") -> list[Sample]:
    return [sample(f"{dataset}/{number}.png", split="held_out") for number in range(count)]


def names(samples: list[Sample]) -> list[str]:
    return [one.id for one in samples]


def test_few_held_out_pictures_are_all_measured_at_all_levels() -> None:
    # The demo: ten held-out pictures, 400 steps of 16 pictures.
    plan = plan_evaluation(TrainConfig(batch_size=16), 400, [*held(10), sample("cats/train.png")])
    assert (plan.every, plan.passes, plan.held_out) == (40, 10 * LEVELS, 10)
    assert plan.key == {}
    assert plan.share == pytest.approx(50 / (40 * 16 * 2))


def test_many_held_out_pictures_are_capped_and_the_key_says_so() -> None:
    plan = plan_evaluation(TrainConfig(batch_size=4), 10_000, held(1000))
    assert (len(plan.levels), plan.every) == (32, 1000)
    assert list(plan.key) == ["levels"]
    assert len(plan_evaluation(TrainConfig(batch_size=4, evaluate_samples=0), 100_000, held(1000)).levels) == 1000


@pytest.mark.setting("train.evaluate_share")
def test_where_the_share_does_not_suffice_levels_go_first_then_samples_then_measurements() -> None:
    def plan(share: float) -> tuple[int, int, int]:
        found = plan_evaluation(TrainConfig(evaluate_share=share), 10_000, held(100))
        return len(found.levels), found.passes, found.every

    assert plan(0.5) == (32, 32 * LEVELS, 1000)
    assert plan(0.05) == (32, 64, 1000)
    assert plan(0.02) == (20, 40, 1000)
    assert plan(0.005) == (8, 16, 1600)


@pytest.mark.setting("train.evaluate_share")
def test_an_interval_that_was_asked_for_is_kept_and_its_cost_is_stated() -> None:
    plan = plan_evaluation(TrainConfig(evaluate_every=10), 1000, held(100))
    assert (plan.every, plan.passes) == (10, 16)
    assert plan.share == pytest.approx(16 / 20)
    assert "80.0%" in plan.sentence() and "8 of 100 held-out pictures" in plan.sentence()


@given(
    st.integers(0, 300), st.integers(1, 8), st.integers(1, 5000), st.sampled_from([0.01, 0.05, 0.5]), st.integers(0, 40)
)
def test_no_usual_run_measures_longer_than_its_share(
    count: int, batch: int, steps: int, share: float, most: int
) -> None:
    train = TrainConfig(batch_size=batch, evaluate_share=share, evaluate_samples=most)
    plan = plan_evaluation(train, steps, held(count))
    assert bool(plan.levels) == bool(count)
    assert plan.share <= share or plan.every >= steps // 4
    assert len(plan.levels) <= (most or count)


def test_levels_are_spread_evenly_over_the_samples() -> None:
    plan = plan_evaluation(TrainConfig(), 4000, held(100))
    counts = Counter(level for at in plan.levels.values() for level in at)
    assert len(plan.levels) == 20 and set(counts.values()) == {8}


def test_each_dataset_has_its_share_and_the_choice_depends_on_no_order() -> None:
    samples = [*held(90, "cats"), *held(9, "dogs"), *held(1, "one")]
    chosen = names(chosen_held_out(samples, 20))
    assert Counter(name.partition("/")[0] for name in chosen) == {"cats": 18, "dogs": 1, "one": 1}
    assert set(names(chosen_held_out(samples[::-1], 20))) == set(chosen)
    assert chosen == [one.id for one in samples if one.id in set(chosen)]


def test_a_new_picture_displaces_one_other_at_most() -> None:
    before = set(names(chosen_held_out(held(100), 20)))
    after = set(names(chosen_held_out(held(101), 20)))
    assert len(before - after) <= 1


def test_more_datasets_than_samples_are_allowed() -> None:
    samples = [one for number in range(9) for one in held(2, f"set{number}")]
    assert len(chosen_held_out(samples, 4)) == 4
