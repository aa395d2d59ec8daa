"""Intervals around measured figures hold what they should, and know their limits."""

from __future__ import annotations

from math import gamma, pi, sqrt
from random import Random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_core.confidence import (
    count_to_tell,
    mean_score_interval,
    noise_of_mean,
    noise_of_share,
    score_change_interval,
)

SCORES = st.floats(0, 1)
PAIRS = st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=60)


@given(SCORES, st.integers(1, 10**6))
def test_the_interval_of_a_mean_score_holds_it_within_0_and_1(mean: float, count: int) -> None:
    low, high = mean_score_interval(mean, count)
    assert 0 <= low <= mean <= high <= 1


@given(SCORES, st.integers(1, 10**4), st.integers(1, 10**4))
def test_more_pictures_give_a_narrower_interval(mean: float, count: int, more: int) -> None:
    narrow, wide = mean_score_interval(mean, count + more), mean_score_interval(mean, count)
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


def test_scores_that_are_all_1_leave_room_for_failures_that_were_not_seen() -> None:
    low, high = mean_score_interval(1.0, 12)
    assert high == 1
    # Wilson's lower end for n successes of n is n / (n + z^2).
    assert low == pytest.approx(12 / (12 + 1.96**2), abs=1e-4)


def test_the_interval_of_9_of_12_is_the_textbooks() -> None:
    assert mean_score_interval(0.75, 12) == pytest.approx((0.4677, 0.9111), abs=1e-4)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.8, 0.97])
def test_about_95_of_100_intervals_hold_the_true_share(share: float) -> None:
    random, count, held = Random(1), 48, 0
    for _ in range(2000):
        low, high = mean_score_interval(sum(random.random() < share for _ in range(count)) / count, count)
        held += low <= share <= high
    assert 0.91 < held / 2000 < 0.99


@given(PAIRS)
def test_the_interval_of_a_change_holds_the_mean_change(pairs: list[tuple[float, float]]) -> None:
    before, after = zip(*pairs, strict=True)
    low, high = score_change_interval(before, after)
    assert -1 <= low < high <= 1
    assert low - 1e-12 <= fmean(after) - fmean(before) <= high + 1e-12


@given(PAIRS)
def test_a_change_seen_from_the_other_side_is_its_mirror_image(pairs: list[tuple[float, float]]) -> None:
    before, after = zip(*pairs, strict=True)
    low, high = score_change_interval(before, after)
    assert score_change_interval(after, before) == pytest.approx((-high, -low), abs=1e-12)


@pytest.mark.parametrize(("failures", "clear"), [(0, False), (1, False), (3, False), (6, True), (48, True)])
def test_one_picture_that_fails_is_chance_and_many_are_not(failures: int, clear: bool) -> None:
    after = [0.0] * failures + [1.0] * (48 - failures)
    assert (score_change_interval([1.0] * 48, after)[1] < 0) is clear


def test_two_equal_changes_prove_nothing() -> None:
    assert score_change_interval([1.0, 1.0], [0.0, 0.0])[1] > 0


def test_the_noise_of_a_mean_is_students_t_times_its_standard_error() -> None:
    values = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert noise_of_mean(values) == pytest.approx(2.776 * sqrt(0.025 / 5))
    assert noise_of_mean([0.3]) is None
    assert noise_of_mean([0.3, 0.3]) == 0


@pytest.mark.parametrize("count", [2, 3, 5, 10, 31, 32, 40, 100, 1000])
def test_students_t_leaves_five_of_a_hundred_outside(count: int) -> None:
    """Integrate its density by Simpson's rule, independently of any table."""
    freedom, steps = count - 1, 20_000
    # Of values that lie 1 from their mean: their standard deviation is known.
    values = [(-1.0) ** number for number in range(count)]
    noise = noise_of_mean(values)
    assert noise is not None
    mean = fmean(values)
    deviation = sqrt(sum((value - mean) ** 2 for value in values) / freedom)
    limit = noise * sqrt(count) / deviation

    def density(t: float) -> float:
        return (1 + t * t / freedom) ** (-count / 2)

    # The factor of the density is a ratio of gamma functions, which overflow above 170.
    factor = gamma(count / 2) / gamma(freedom / 2) / sqrt(freedom * pi) if count < 300 else 1 / sqrt(2 * pi)
    width = limit / steps
    total = sum((4 if number % 2 else 2) * density(number * width) for number in range(1, steps))
    inside = 2 * factor * (density(0) + total + density(limit)) * width / 3
    assert inside == pytest.approx(0.95, abs=3e-4)


@given(st.floats(0.01, 0.99))
def test_the_count_that_tells_a_share_is_the_smallest_whose_noise_reaches_neither_end(share: float) -> None:
    count, near = count_to_tell(share), min(share, 1 - share)
    assert count is not None
    assert noise_of_share(share, count) <= near * (1 + 1e-9)
    assert count == 1 or noise_of_share(share, count - 1) > near * (1 - 1e-9)


def test_the_goal_of_80_percent_takes_16_pictures_and_none_and_all_take_any_number() -> None:
    assert count_to_tell(0.8) == 16
    assert count_to_tell(0.0) is None
    assert count_to_tell(1.0) is None
