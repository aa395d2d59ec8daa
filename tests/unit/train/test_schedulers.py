from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_core.config.groups import ScheduleConfig
from trainer_core.train.schedulers import SHAPES, lr_multiplier


@given(st.sampled_from(sorted(SHAPES)), st.integers(0, 50), st.integers(1, 200), st.data())
def test_the_rate_stays_between_zero_and_its_peak(name: str, warmup: int, total: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, total - 1))
    schedule = ScheduleConfig(name=name, warmup_steps=warmup)  # type: ignore[arg-type]
    assert 0.0 <= lr_multiplier(step, schedule, total) <= 1.0


def test_the_warm_up_rises_evenly_and_ends_at_the_peak() -> None:
    schedule = ScheduleConfig(name="cosine", warmup_steps=4)
    assert [lr_multiplier(step, schedule, 100) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_cosine_passes_half_at_the_middle_and_linear_too() -> None:
    for name in ("cosine", "linear"):
        assert lr_multiplier(50, ScheduleConfig(name=name), 100) == pytest.approx(0.5)  # type: ignore[arg-type]


def test_constant_stays_level_after_the_warm_up() -> None:
    assert {lr_multiplier(step, ScheduleConfig(), 10) for step in range(10)} == {1.0}


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_decaying_shapes_fall_after_the_warm_up_and_nearly_reach_zero(name: str) -> None:
    schedule = ScheduleConfig(name=name, warmup_steps=3)  # type: ignore[arg-type]
    rates = [lr_multiplier(step, schedule, 60) for step in range(3, 60)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.05
