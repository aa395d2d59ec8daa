from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.optimization import get_scheduler

from trainer_core.config.groups import ScheduleConfig
from trainer_core.train.optim.schedules import (
    SHAPES,
    curve,
    depends_on_length,
    lr_multiplier,
    steps_of_any_length,
    warmup_steps,
)

NAMES = sorted(SHAPES)


def rates(total: int, **settings: Any) -> list[float]:
    schedule = ScheduleConfig(**settings)
    return [lr_multiplier(step, schedule, total) for step in range(total)]


def of_transformers(name: str, warmup: int, total: int, **special: Any) -> list[float]:
    """The multipliers of transformers' scheduler of that name."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    if name == "polynomial":
        special["lr_end"] = 0.0
    scheduler = get_scheduler(name, optimizer, warmup, total, scheduler_specific_kwargs=special)
    return [scheduler.lr_lambdas[0](step) for step in range(total)]  # type: ignore[attr-defined]


@given(
    st.sampled_from(NAMES),
    st.integers(0, 50),
    st.integers(1, 200),
    st.builds(dict, cycles=st.integers(1, 5), min_lr_ratio=st.floats(0, 1), decay_ratio=st.floats(0.01, 1)),
    st.data(),
)
def test_the_rate_stays_between_its_least_and_its_peak(
    name: str, warmup: int, total: int, settings: dict[str, Any], data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, total - 1))
    share = lr_multiplier(step, ScheduleConfig(name=name, warmup_steps=warmup, **settings), total)  # type: ignore[arg-type]
    assert 0.0 <= share <= 1.0
    if step >= warmup:
        assert share >= settings["min_lr_ratio"] * (1 - 1e-9)


@pytest.mark.setting("schedule.warmup_steps")
def test_the_warm_up_rises_evenly_and_ends_at_the_peak() -> None:
    assert rates(100, name="cosine", warmup_steps=4)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.setting("schedule.warmup_ratio")
def test_a_warm_up_may_be_a_share_of_the_run() -> None:
    assert rates(200, name="rex", warmup_ratio=0.1) == rates(200, name="rex", warmup_steps=20)
    assert warmup_steps(ScheduleConfig(warmup_ratio=0.1), 1500) == 150


def test_constant_stays_level_after_the_warm_up() -> None:
    assert set(rates(10)) == {1.0}


@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize(
    ("name", "settings", "special"),
    [
        ("linear", {}, {}),
        ("cosine", {}, {}),
        ("cosine_with_restarts", {"cycles": 3}, {"num_cycles": 3}),
        ("polynomial", {"power": 2.5}, {"power": 2.5}),
        ("warmup_stable_decay", {"decay_ratio": 0.25}, {"num_decay_steps": 20, "min_lr_ratio": 0.0}),
        (
            "warmup_stable_decay",
            {"decay_ratio": 0.25, "min_lr_ratio": 0.1},
            {"num_decay_steps": 20, "min_lr_ratio": 0.1},
        ),
        ("cosine_with_min_lr", {"min_lr_ratio": 0.2}, {"min_lr_rate": 0.2}),
    ],
)
@pytest.mark.setting(
    "schedule.name", "schedule.cycles", "schedule.power", "schedule.decay_ratio", "schedule.min_lr_ratio"
)
def test_shapes_are_those_of_transformers_after_the_warm_up(
    name: str, settings: dict[str, Any], special: dict[str, Any], warmup: int
) -> None:
    ours = rates(80, name=name.removesuffix("_with_min_lr"), warmup_steps=warmup, **settings)
    assert ours[warmup:] == pytest.approx(of_transformers(name, warmup, 80, **special)[warmup:])


@pytest.mark.setting("schedule.name")
def test_rex_is_the_papers_formula() -> None:
    wanted = [(1 - step / 50) / (0.5 + 0.5 * (1 - step / 50)) for step in range(50)]
    assert rates(50, name="rex") == pytest.approx(wanted)


@pytest.mark.setting("schedule.cycles")
def test_each_restart_begins_at_the_peak() -> None:
    shares = rates(90, name="cosine_with_restarts", cycles=3)
    assert [shares[step] for step in (0, 30, 60)] == pytest.approx([1.0, 1.0, 1.0])
    assert max(shares[29], shares[59], shares[89]) < 0.01


@pytest.mark.setting("schedule.min_lr_ratio")
def test_shapes_fall_to_the_least_rate_and_the_warm_up_still_begins_below_it() -> None:
    for name in NAMES:
        if name == "constant":
            continue
        shares = rates(1000, name=name, min_lr_ratio=0.3, warmup_steps=10)
        assert shares[0] == pytest.approx(0.1)
        assert shares[-1] == pytest.approx(0.3, abs=0.01)
        assert max(shares) == 1.0


@pytest.mark.setting("schedule.decay_ratio")
def test_the_stable_part_is_level_until_the_decay() -> None:
    shares = rates(100, name="warmup_stable_decay", decay_ratio=0.3, warmup_steps=10)
    assert set(shares[10:71]) == {1.0}
    assert shares[71] < 1.0
    assert shares[85] == pytest.approx(0.5)


@pytest.mark.setting("schedule.power")
def test_powers_bend_the_line() -> None:
    assert rates(10, name="polynomial", power=1.0) == pytest.approx(rates(10, name="linear"))
    assert rates(10, name="polynomial", power=2.0)[5] == pytest.approx(0.25)


def test_the_curve_has_the_first_and_the_last_step_and_is_the_schedule() -> None:
    schedule = ScheduleConfig(name="cosine", warmup_steps=5)
    points = curve(schedule, 2e-4, 1500)
    assert (len(points), points[0][0], points[-1][0]) == (101, 1, 1500)
    assert all(rate == 2e-4 * lr_multiplier(step - 1, schedule, 1500) for step, rate in points)
    assert [step for step, _ in curve(schedule, 1.0, 3)] == [1, 2, 3]
    assert curve(schedule, 1.0, 1) == [(1, 0.2)]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("warmup", [{}, {"warmup_steps": 7}, {"warmup_ratio": 0.1}])
@pytest.mark.parametrize(("short", "long"), [(40, 41), (40, 80), (3, 100)])
def test_a_longer_run_has_the_same_rates_as_far_as_it_is_said(
    name: Any, warmup: dict[str, Any], short: int, long: int
) -> None:
    schedule = ScheduleConfig(name=name, **warmup)
    same = steps_of_any_length(schedule, short)
    assert same <= steps_of_any_length(schedule, long)
    assert rates(short, name=name, **warmup)[:same] == rates(long, name=name, **warmup)[:same]
    assert bool(same) != bool(depends_on_length(schedule))


def test_the_schedules_that_a_longer_run_goes_on_with_are_the_constant_and_the_one_with_a_stable_part() -> None:
    lengths = {name: steps_of_any_length(ScheduleConfig(name=name), 1500) for name in ("constant", "cosine", "linear")}
    assert lengths == {"constant": 1500, "cosine": 0, "linear": 0}
    assert steps_of_any_length(ScheduleConfig(name="warmup_stable_decay"), 1500) == 1200
    assert depends_on_length(ScheduleConfig(name="cosine")) == "the cosine schedule depends on train.steps"
