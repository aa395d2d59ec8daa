from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from trainer_core.train.lr_finder import judge, picture, smoothed_shares, write_picture
from trainer_core.train.range_test import FoundLr, RangeTest

ASKED = RangeTest(1e-7, 1e-1, 121)


def valley(rate: float) -> float:
    """Shares of a loss that falls around 1e-3, is lowest at 1e-2 and rises after."""
    place = math.log10(rate)
    return 1 - 0.4 / (1 + math.exp(-6 * (place + 3))) + 0.3 * max(0.0, place + 2) ** 2


def found(draws: list[float]) -> FoundLr:
    losses = [draw * valley(ASKED.rate(step)) for step, draw in enumerate(draws)]
    return judge(ASKED, losses, draws, None)


def test_rates_are_evenly_spread_over_the_orders_of_magnitude() -> None:
    rates = [RangeTest(1e-6, 1e-2, 5).rate(step) for step in range(5)]
    assert rates == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
    assert RangeTest(1e-6, 1e-2, 1).rate(0) == 1e-6


def test_the_slope_and_the_bottom_of_a_valley_are_found() -> None:
    result = found([1.0] * 121)
    assert result.steepest is not None and result.lowest is not None and result.suggested is not None
    assert 5e-4 < result.steepest < 4e-3
    assert 5e-3 < result.lowest < 4e-2
    assert result.suggested == pytest.approx(min(result.steepest, result.lowest / 10), rel=0.05)


def test_draws_that_differ_tenfold_change_nothing_as_each_is_held_against_the_untrained_model() -> None:
    even, wild = found([1.0] * 121), found([10.0 ** ((step * 7919 % 13) / 13) for step in range(121)])
    assert even.suggested is not None and wild.suggested is not None
    assert 1 / 3 < wild.suggested / even.suggested < 3


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    result = judge(ASKED, [1.0, 1.0, 1.2], [1.0] * 121, 1e-3)
    assert (result.suggested, result.steepest, result.diverged) == (None, None, 1e-3)
    assert judge(ASKED, [], [1.0], 1e-7).readings == ()


def test_a_range_that_ends_while_the_loss_falls_ended_too_soon() -> None:
    short = RangeTest(1e-7, 1e-2, 101)
    losses = [valley(short.rate(step)) for step in range(101)]
    assert judge(short, losses, [1.0] * 101, None).ended_too_soon
    # The valley's other side is in the range, or the loss diverged: the lowest point is known.
    assert not found([1.0] * 121).ended_too_soon
    assert not judge(short, losses, [1.0] * 101, 1e-2).ended_too_soon
    assert judge(short, losses, [1.0] * 101, None).as_dict()["ended_too_soon"] is True


def test_rates_that_coincide_are_one_line_with_both_names() -> None:
    result = found([1.0] * 121)
    same = replace(result, steepest=result.suggested)
    labels = [line.get_label() for line in picture(same).axes[0].lines]
    assert len([label for label in labels if "suggested" in str(label) and "falls fastest" in str(label)]) == 1
    assert len(labels) == 4


def test_shares_are_of_the_same_draws() -> None:
    assert smoothed_shares([1.0, 4.0], [2.0, 8.0, 99.0]) == pytest.approx([0.5, 0.5])


def test_the_picture_is_drawn_whether_or_not_there_is_a_suggestion(tmp_path: Path) -> None:
    for number, result in enumerate((found([1.0] * 121), judge(ASKED, [1.0, 2.0], [1.0] * 121, 1e-6))):
        write_picture(result, tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")
