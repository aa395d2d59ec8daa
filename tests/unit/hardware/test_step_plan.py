"""Measures against running out of memory come in a fixed order, and what the user fixed stays."""

from __future__ import annotations

from typing import Any

import pytest

from trainer_core.hardware.step_plan import StepLimits, StepPlan, ladder, next_plan

EVERY_SECOND, ALL = "gradient checkpointing of every second block", "gradient checkpointing of all blocks"


@pytest.mark.parametrize(
    ("plan", "limits", "measures"),
    [
        ({}, {}, [EVERY_SECOND, ALL, "micro-batches of 2 instead of 4", "micro-batches of 1 instead of 2"]),
        ({"checkpointing": "all"}, {"splits": False}, []),
        ({}, {"recomputes": False, "batch_size": 1}, []),
        ({"checkpointing": "all", "micro_batch": 1}, {"offloads": True}, ["activations in the computer's memory"]),
        (
            {"checkpointing": "all"},
            {"batch_size": 1, "swappable": 16},
            [f"{count} of 16 blocks swapped" for count in (4, 8, 12, 16)],
        ),
        ({"micro_batch": 1}, {"recomputes": False, "swappable": 16}, []),
    ],
)
def test_measures_in_order(plan: dict[str, Any], limits: dict[str, Any], measures: list[str]) -> None:
    given: dict[str, Any] = {"batch_size": 4}
    assert ladder(StepPlan(**plan), StepLimits(**(given | limits))) == measures


def test_an_odd_batch_is_split_into_halves_that_cover_it() -> None:
    following = next_plan(StepPlan("all"), StepLimits(batch_size=7))
    assert following is not None
    assert following[1].micro_batch == 4


def test_of_two_plans_the_smaller_of_each_part_is_kept() -> None:
    one, other = StepPlan("every_second", 4, 8), StepPlan("all", 0, 2, True)
    assert one.joined(other) == other.joined(one) == StepPlan("all", 4, 8, True)
