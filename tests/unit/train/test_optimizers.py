from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from trainer_core.config.groups import OptimizerConfig
from trainer_core.train.optimizers import OPTIMIZERS, TrainedPart, build_optimizer
from trainer_core.train.state import TrainState, load_latest, save_state


def _part(parameter: nn.Parameter) -> TrainedPart:
    return TrainedPart("unet", nn.Module(), {"weight": parameter}, 0.05)


def _descend(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        (parameter - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_descends(name: str) -> None:
    parameter = torch.nn.Parameter(torch.zeros(64, 128))
    optimizer = build_optimizer([_part(parameter)], OptimizerConfig(name=name, lr=0.05), scaled=False)  # type: ignore[arg-type]
    _descend(parameter, optimizer, 40)
    assert float((parameter - 1).abs().mean().detach()) < 0.2


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_goes_on_bit_for_bit_from_a_checkpoint(name: str, tmp_path: Path) -> None:
    config = OptimizerConfig(name=name, lr=0.01)  # type: ignore[arg-type]
    torch.manual_seed(0)
    start = torch.randn(64, 128)
    whole = torch.nn.Parameter(start.clone())
    _descend(whole, build_optimizer([_part(whole)], config, scaled=False), 7)
    first = torch.nn.Parameter(start.clone())
    optimizer = build_optimizer([_part(first)], config, scaled=False)
    _descend(first, optimizer, 4)
    save_state(tmp_path, TrainState(4, {"p": first.detach()}, optimizer.state_dict()))
    state = load_latest(tmp_path)
    assert state is not None
    second = torch.nn.Parameter(state.adapter["p"])
    again = build_optimizer([_part(second)], config, scaled=False)
    again.load_state_dict(dict(state.optimizer))
    _descend(second, again, 3)
    assert torch.equal(second, whole)


def test_eight_bit_moments_take_a_quarter_of_the_memory() -> None:
    parameter = torch.nn.Parameter(torch.zeros(64, 128))
    optimizer = build_optimizer([_part(parameter)], OptimizerConfig(name="adamw8bit"), scaled=False)
    _descend(parameter, optimizer, 1)
    assert optimizer.state[parameter]["state1"].dtype == torch.uint8
