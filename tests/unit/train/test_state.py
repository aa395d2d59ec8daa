from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer_core.train.run_state.checkpoint import TrainState, check_state, load_latest, prune, save_state


def _trained(steps: int) -> TrainState:
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(3, 4))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    for _ in range(steps):
        parameter.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return TrainState(steps, {"a.lora_A.weight": parameter.detach().clone()}, optimizer.state_dict(), {"scale": 2.0})


def test_a_checkpoint_gives_back_every_bit(tmp_path: Path) -> None:
    state = _trained(3)
    save_state(tmp_path, state)
    again = load_latest(tmp_path)
    assert again is not None
    assert (again.step, again.scaler) == (3, {"scale": 2.0})
    assert torch.equal(again.adapter["a.lora_A.weight"], state.adapter["a.lora_A.weight"])
    assert again.optimizer["param_groups"][0]["lr"] == 0.1
    for name, value in state.optimizer["state"][0].items():
        assert torch.equal(again.optimizer["state"][0][name], value)


def test_the_newest_checkpoint_is_loaded(tmp_path: Path) -> None:
    for steps in (1, 12, 3):
        save_state(tmp_path, _trained(steps))
    again = load_latest(tmp_path)
    assert again is not None and again.step == 12


@pytest.mark.parametrize("name", ["adapter.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"])
def test_a_flipped_byte_in_any_file_is_named(tmp_path: Path, name: str) -> None:
    folder = save_state(tmp_path, _trained(2))
    assert check_state(folder) is None
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    assert check_state(folder) is not None


def test_a_missing_file_is_a_damaged_checkpoint(tmp_path: Path) -> None:
    save_state(tmp_path, _trained(1))
    newest = save_state(tmp_path, _trained(2))
    (newest / "state.json").unlink()
    again = load_latest(tmp_path)
    assert again is not None and again.step == 1


def test_a_half_written_checkpoint_is_not_seen_and_is_cleared_away(tmp_path: Path) -> None:
    save_state(tmp_path, _trained(1))
    (tmp_path / ".tmp-step-00000009-1").mkdir()
    again = load_latest(tmp_path)
    assert again is not None and again.step == 1
    prune(tmp_path, keep_last=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_an_intact_checkpoint_of_a_step_stays_and_a_damaged_one_is_written_again(tmp_path: Path) -> None:
    folder = save_state(tmp_path, _trained(2))
    before = (folder / "MANIFEST.json").stat().st_mtime_ns
    save_state(tmp_path, _trained(2))
    assert (folder / "MANIFEST.json").stat().st_mtime_ns == before
    (folder / "state.json").write_text("{}")
    save_state(tmp_path, _trained(2))
    assert check_state(folder) is None
