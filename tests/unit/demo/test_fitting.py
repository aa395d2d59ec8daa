"""The pretraining loop: resume, mean of the weights, atomic checkpoints."""

import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from demo.fitting import Task, fit, learning_rate, load_mean, write_atomically
from demo.muon import orthogonalise


def _task(path: Path, steps: int, stop_at: int | None = None) -> Task:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))

    def loss(step: int) -> Tensor:
        if step == stop_at:
            signal.raise_signal(signal.SIGTERM)
        data = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return (module(data) - data.sum(1, keepdim=True)).square().mean()

    return Task("toy", module, loss, steps, 0.05, path, lambda name, _: name.startswith("0."))


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = _task(tmp_path / "whole", 20)
    assert fit(whole)
    assert not fit(_task(tmp_path / "parts", 20, stop_at=7))
    resumed = _task(tmp_path / "parts", 20)
    assert fit(resumed)
    pairs = zip(whole.module.parameters(), resumed.module.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    task = _task(tmp_path / "toy", 200)
    before = task.loss(1000).item()
    fit(task)
    assert task.loss(1000).item() < before / 4


def test_the_rate_warms_up_and_ends_in_rest() -> None:
    assert learning_rate(0, 10_000, 1.0) < 0.1
    assert learning_rate(100, 10_000, 1.0) == pytest.approx(1.0, abs=0.01)
    assert learning_rate(10_000, 10_000, 1.0) == pytest.approx(0.02)


def test_an_orthogonal_matrix_has_singular_values_of_about_one() -> None:
    for shape in ((6, 20), (20, 6)):
        matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalise(matrix))
        assert values.min() > 0.5
        assert values.max() < 1.4


def test_the_mean_is_loaded_with_its_step(tmp_path: Path) -> None:
    task = _task(tmp_path / "toy", 5)
    fit(task)
    other = _task(tmp_path / "other", 5).module
    assert load_mean(tmp_path / "toy", other) == 5
    assert not torch.equal(other[0].weight, task.module[0].weight)


def test_a_missing_checkpoint_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint yet.*demo\.pretrain"):
        load_mean(tmp_path / "nothing", nn.Linear(1, 1))


def test_an_atomic_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "sub" / "file", b"new")
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["file"]
