from __future__ import annotations

import json
import math
import re
import zlib
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import torch
from PIL import Image

from trainer_core.clock import iso_time
from trainer_core.train.observe.losses import LossRecorder, first_bad
from trainer_core.train.observe.metrics import MetricsFile, StepMetrics, earlier_points, read_metrics
from trainer_core.train.observe.plots import loss_curve, running_mean, write_loss_curve


def _line(step: int, loss: float = 0.5) -> StepMetrics:
    return StepMetrics(step, loss, 1e-4, 0.1, 2.0, 4.0, 100.0, 0.01)


def test_losses_come_back_under_their_micro_batch_numbers() -> None:
    recorder = LossRecorder(3, torch.device("cpu"))
    for number in (7, 9, 11):
        recorder.add(number, torch.tensor(float(number)))
    assert recorder.full
    assert recorder.take() == {7: 7.0, 9: 9.0, 11: 11.0}
    assert recorder.take() == {}


def test_the_first_loss_that_is_not_finite_is_found() -> None:
    assert first_bad({1: 0.5, 2: math.inf, 3: math.nan}) == 2
    assert first_bad({1: 0.5}) is None


def test_resuming_drops_the_lines_after_the_checkpoint(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl", resumed_step=0)
    for step in (10, 20, 30):
        file.write(_line(step))
    MetricsFile(tmp_path / "metrics.jsonl", resumed_step=20).write(_line(30, loss=0.4))
    assert [(line.step, line.loss) for line in read_metrics(tmp_path / "metrics.jsonl")] == [
        (10, 0.5),
        (20, 0.5),
        (30, 0.4),
    ]


def test_lines_cut_short_or_changed_by_one_digit_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, resumed_step=0)
    for step in (10, 20, 30):
        file.write(_line(step))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0].replace("0.5", "0.6"), lines[1], lines[2][:20]]))
    assert [line.step for line in read_metrics(path)] == [20]


def test_a_line_says_when_it_was_written_and_comparisons_ignore_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    timed = replace(_line(10), time="2026-11-21T16:44:08.123+00:00")
    MetricsFile(path, resumed_step=0).write(timed)
    assert read_metrics(path) == [_line(10)]
    assert read_metrics(path)[0].time == timed.time
    # A resumed run keeps the time of the lines that it keeps.
    MetricsFile(path, resumed_step=10)
    assert read_metrics(path)[0].time == timed.time


def test_lines_of_older_versions_have_no_time_and_no_rates_and_are_still_read(tmp_path: Path) -> None:
    values = {name: value for name, value in asdict(_line(10)).items() if name not in ("time", "rates")}
    crc = zlib.crc32(json.dumps(values, sort_keys=True).encode())
    (tmp_path / "metrics.jsonl").write_text(json.dumps(values | {"crc32": crc}) + "\n")
    assert read_metrics(tmp_path / "metrics.jsonl") == [_line(10)]


def test_earlier_points_are_all_curves_in_the_order_of_steps_up_to_where_a_run_goes_on() -> None:
    rates = {"lr/unet": 1e-4, "lr/text_encoder": 5e-5}
    lines = [replace(_line(step, loss=step / 100), rates=rates) for step in (10, 20, 30)]
    points = earlier_points(lines, {0: 0.9, 20: 0.8, 30: 0.7}, 20)
    assert [step for step, _ in points] == [0, 10, 20]
    assert points[0][1] == {"loss/held_out": 0.9}
    assert points[1][1] == lines[0].curves() and points[1][1].items() >= {"loss/train": 0.1, **rates}.items()
    assert points[2][1] == {"loss/held_out": 0.8} | lines[1].curves()
    assert "grad_norm" not in replace(lines[0], grad_norm=None).curves()


def test_times_have_a_date_milliseconds_and_an_offset() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", iso_time())
    assert datetime.fromisoformat(iso_time(1.5)).timestamp() == 1.5


def test_training_and_held_out_loss_have_an_axis_each_with_a_label() -> None:
    lines = [_line(step, loss=0.15) for step in (10, 20, 30)]
    training, rate, seconds, memory, held_out = loss_curve(lines, {0: 0.9, 30: 0.88}, 30).axes
    assert "training loss" in training.get_ylabel() and "held-out loss" in held_out.get_ylabel()
    assert rate.get_ylabel() == "learning rate"
    assert seconds.get_ylabel() == "seconds a step" and "memory" in memory.get_ylabel()
    # Neither curve is pressed flat by the other's size.
    assert training.get_ylim()[1] < 0.5 < held_out.get_ylim()[0]


def test_without_held_out_samples_there_is_no_axis_for_them() -> None:
    assert len(loss_curve([_line(10), _line(20)], {}, 20).axes) == 4


def test_the_running_mean_starts_at_the_first_value_and_follows() -> None:
    means = running_mean([1.0, 1.0, 0.0])
    assert means[0] == 1.0
    assert 0.0 < means[2] < 1.0


def test_a_curve_of_no_lines_is_still_a_picture(tmp_path: Path) -> None:
    write_loss_curve([], {}, 0, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "P", (1200, 720))
