"""The pretraining loop: resume, mean of the weights, atomic checkpoints."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from demo.fitting import Task, fit, learning_rate, load_mean, write_atomically


def _task(path: Path, steps: int) -> Task:
    torch.manual_seed(0)
    module = nn.Linear(4, 1)

    def loss(step: int) -> Tensor:
        data = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return (module(data) - data.sum(1, keepdim=True)).square().mean()

    return Task("toy", module, loss, steps, 0.05, path)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _task(tmp_path / "whole", 20)
    assert fit(whole)
    monkeypatch.setattr("demo.fitting.learning_rate", lambda s, _, p: learning_rate(s, 20, p))
    fit(_task(tmp_path / "parts", 7))
    resumed = _task(tmp_path / "parts", 20)
    assert fit(resumed)
    assert torch.equal(whole.module.weight, resumed.module.weight)


def test_the_mean_is_loaded_with_its_step(tmp_path: Path) -> None:
    task = _task(tmp_path / "toy", 5)
    fit(task)
    other = nn.Linear(4, 1)
    assert load_mean(tmp_path / "toy", other) == 5
    assert not torch.equal(other.weight, task.module.weight)


def test_a_missing_checkpoint_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint yet.*demo\.pretrain"):
        load_mean(tmp_path / "nothing", nn.Linear(1, 1))


def test_an_atomic_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "sub" / "file", b"new")
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["file"]
