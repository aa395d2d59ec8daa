from __future__ import annotations

import math
from pathlib import Path

import torch

from trainer_core.train.observe.metrics import LossRecorder, MetricsFile, StepMetrics, first_bad, read_metrics
from trainer_core.train.observe.plots import running_mean, write_loss_curve


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


def test_the_running_mean_starts_at_the_first_value_and_follows() -> None:
    means = running_mean([1.0, 1.0, 0.0])
    assert means[0] == 1.0
    assert 0.0 < means[2] < 1.0


def test_a_curve_of_no_lines_is_still_a_picture(tmp_path: Path) -> None:
    write_loss_curve([], {}, 0, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
