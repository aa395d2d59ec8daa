from __future__ import annotations

from trainer_core.config.groups import DatasetConfig, ModelConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from trainer_core.config.project import Project
from trainer_core.train.optim.rate_curve import RateCurve, bars


def curve_of(schedule: ScheduleConfig, steps: int = 200, optimizer: str = "adamw", lr: float = 1e-3) -> RateCurve:
    project = Project(
        name="cats",
        model=ModelConfig(family="sd15", path="base"),  # type: ignore[arg-type]
        datasets=(DatasetConfig(path="pictures"),),  # type: ignore[arg-type]
        optimizer=OptimizerConfig(name=optimizer, lr=lr),
        schedule=schedule,
        train=TrainConfig(steps=steps),
    )
    return RateCurve.of(project, steps)


def test_the_curve_tells_peak_end_and_warm_up_in_a_form_for_programs() -> None:
    told = curve_of(ScheduleConfig(name="linear", warmup_ratio=0.1, min_lr_ratio=0.5)).as_dict()
    assert set(told) == {"name", "peak", "end", "warmup_steps", "steps", "points"}
    assert (told["name"], told["peak"], told["warmup_steps"], told["steps"]) == ("linear", 1e-3, 20, 200)
    assert told["points"][0] == [1, 1e-3 / 20]
    assert told["points"][-1] == [200, told["end"]]
    assert 0.5e-3 < told["end"] < 0.51e-3


def test_the_drawing_is_as_high_as_the_rate() -> None:
    head, *rows, axis, ends = curve_of(ScheduleConfig(name="linear")).drawn()
    assert head == "learning rate: linear, peak 0.001, 5e-06 at the end (step 200)"
    heights = [sum(row[7:][column : column + 1] not in ("", " ") for row in rows) for column in range(60)]
    assert heights == sorted(heights, reverse=True)
    assert (heights[0], heights[-1]) == (5, 1)
    assert ends.endswith("200") and len(ends) == len(axis)


def test_an_optimizer_that_finds_its_own_rate_is_told() -> None:
    assert "the optimizer's own estimate" in curve_of(ScheduleConfig(), optimizer="prodigy", lr=1.0).drawn()[0]


def test_a_run_of_one_step_is_drawn() -> None:
    assert len(curve_of(ScheduleConfig(name="cosine"), steps=1).drawn()) == 8


def test_bars_are_eighths_of_a_character() -> None:
    assert bars([0.0, 0.5, 0.75, 1.0], 2) == ["  ▄█", " ███"]
