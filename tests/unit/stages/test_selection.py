"""The best step of a run, whatever kills and damage do to what was measured."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer_core.stages.training.best_checkpoint import HELD_OUT, Selection


def weights(step: int) -> dict[str, torch.Tensor]:
    return {"a.lora_A.weight": torch.full((2, 3), float(step)), "a.lora_B.weight": torch.zeros(3, 2)}


def measured(folder: Path, losses: dict[int, float], steps: int = 100) -> Selection:
    selection = Selection(folder, 10, steps)
    for step, loss in losses.items():
        selection.add(step, loss, weights(step))
    return selection


def checkpoint(folder: Path, step: int) -> Path:
    place = folder / "checkpoints" / f"step-{step:08d}"
    place.mkdir(parents=True)
    return place


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_a_loss_is_due_at_the_base_at_every_interval_and_at_the_end() -> None:
    selection = Selection(Path(), 40, 100)
    assert [step for step in range(101) if selection.due(step)] == [0, 40, 80, 100]


@given(st.lists(st.floats(0.01, 10, allow_nan=False), min_size=1, max_size=10))
def test_the_best_step_is_the_first_of_the_lowest_losses_and_its_weights_are_kept(losses: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        by_step = {10 * (number + 1): loss for number, loss in enumerate(losses)}
        selection = measured(Path(folder), {0: 0.001} | by_step)
        best = min(by_step, key=lambda step: (by_step[step], step))
        assert selection.best() == best
        kept = selection.best_weights()
        assert kept is not None
        assert torch.equal(kept["a.lora_A.weight"], weights(best)["a.lora_A.weight"])


def test_the_base_is_measured_and_never_chosen(tmp_path: Path) -> None:
    assert measured(tmp_path, {0: 0.1}).best() is None
    assert measured(tmp_path, {10: 0.9}).best() == 10


def test_a_damaged_line_is_no_measurement(tmp_path: Path) -> None:
    selection = measured(tmp_path, {0: 0.5, 10: 0.4, 20: 0.3})
    lines = (tmp_path / HELD_OUT).read_text().splitlines(keepends=True)
    (tmp_path / HELD_OUT).write_text(lines[0] + lines[1].replace("0.4", "0.1") + lines[2][:-8])
    assert selection.losses() == {0: 0.5}


def test_what_was_measured_after_the_step_gone_on_from_is_forgotten(tmp_path: Path) -> None:
    selection = measured(tmp_path, {0: 0.5, 10: 0.4, 20: 0.3})
    selection.forget_after(15)
    assert selection.losses() == {0: 0.5, 10: 0.4}


def test_weights_that_a_checkpoint_may_go_back_to_are_kept_and_others_are_not(tmp_path: Path) -> None:
    checkpoint(tmp_path, 15)
    selection = measured(tmp_path, {0: 0.9, 10: 0.5, 20: 0.4, 30: 0.3})
    kept = {path.name for path in (tmp_path / "best").iterdir()}
    assert kept == {"step-00000010.safetensors", "step-00000030.safetensors"}
    selection.forget_after(15)
    assert selection.best() == 10
    assert selection.best_weights() is not None


def test_a_whole_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    place = checkpoint(tmp_path, 20)
    measured(tmp_path, {0: 0.9, 10: 0.5, 20: 0.6}).refuse_checkpoints_without_losses(tmp_path / "checkpoints")
    assert place.exists()


@pytest.mark.parametrize("damage", ["line", "weights", "no weights"])
def test_a_checkpoint_whose_measurements_are_not_whole_is_not_gone_on_from(tmp_path: Path, damage: str) -> None:
    early, late = checkpoint(tmp_path, 5), checkpoint(tmp_path, 20)
    selection = measured(tmp_path, {0: 0.9, 10: 0.5, 20: 0.6})
    best = tmp_path / "best" / "step-00000010.safetensors"
    if damage == "line":
        flip(tmp_path / HELD_OUT, len((tmp_path / HELD_OUT).read_text().splitlines()[0]) + 20)
    elif damage == "weights":
        flip(best, -1)
    else:
        best.unlink()
    selection.refuse_checkpoints_without_losses(tmp_path / "checkpoints")
    assert not late.exists()
    assert early.exists()
