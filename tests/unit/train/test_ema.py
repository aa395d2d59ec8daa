from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from trainer_core.config.groups import OptimizerConfig
from trainer_core.train.optim.build import TrainedPart, build_optimizer
from trainer_core.train.optim.ema import make_averages, published_weights
from trainer_core.train.optim.state import optimizer_state
from trainer_core.train.run_state.checkpoint import TrainState, load_latest, save_state


def parts() -> tuple[TrainedPart, ...]:
    return (TrainedPart("unet", nn.Module(), {"m.lora_B.weight": nn.Parameter(torch.zeros(4))}, 0.1),)


def weights_of(trained: tuple[TrainedPart, ...]) -> nn.Parameter:
    return trained[0].parameters["m.lora_B.weight"]


def move_to(trained: tuple[TrainedPart, ...], value: float) -> None:
    with torch.no_grad():
        weights_of(trained).fill_(value)


@pytest.mark.parametrize("decay", [0.15, 0.9])
@pytest.mark.setting("train.ema_decay")
def test_the_average_is_the_formula_that_the_setting_tells(decay: float) -> None:
    trained = parts()
    averages = make_averages(trained, torch.optim.SGD([weights_of(trained)]), decay)
    assert averages is not None
    expected = 0.0
    for updates, value in enumerate([3.0, -1.0, 4.0, 1.0, -5.0, 9.0]):
        move_to(trained, value)
        averages.update()
        # The first weights are taken whole; then min(decay, (1 + n) / (10 + n)) after n updates.
        share = min(decay, (1 + updates) / (10 + updates)) if updates else 0.0
        expected = share * expected + (1 - share) * value
    with published_weights(averages):
        assert torch.allclose(weights_of(trained), torch.full((4,), expected))


def test_without_a_decay_there_is_no_average() -> None:
    trained = parts()
    assert make_averages(trained, torch.optim.SGD([weights_of(trained)]), 0.0) is None
    with published_weights(None):
        pass


def test_the_trained_weights_come_back_bit_for_bit_even_after_an_error() -> None:
    trained = parts()
    averages = make_averages(trained, torch.optim.SGD([weights_of(trained)]), 0.9)
    assert averages is not None
    averages.update()
    move_to(trained, 0.1)
    before = weights_of(trained).detach().clone()
    with pytest.raises(RuntimeError), published_weights(averages):
        assert not torch.equal(weights_of(trained), before)
        raise RuntimeError
    assert torch.equal(weights_of(trained), before)


def test_the_average_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    values = [1.0, 3.0, -2.0, 7.0]

    def averaged(stop: int | None) -> torch.Tensor:
        trained = parts()
        optimizer = torch.optim.SGD([weights_of(trained)])
        averages = make_averages(trained, optimizer, 0.5)
        assert averages is not None
        for step, value in enumerate(values):
            move_to(trained, value)
            averages.update()
            if step == stop:
                save_state(tmp_path, TrainState(step, {}, optimizer_state(optimizer), None, averages.state()))
                averages = make_averages(trained, optimizer, 0.5)
                state = load_latest(tmp_path)
                assert averages is not None and state is not None
                averages.restore(state.ema)
        with published_weights(averages):
            return weights_of(trained).detach().clone()

    assert torch.equal(averaged(stop=1), averaged(stop=None))


def test_a_schedule_free_optimizer_publishes_its_own_average_and_goes_on_from_its_trained_weights() -> None:
    trained = parts()
    config = OptimizerConfig(name="adamwschedulefree", lr=0.1, weight_decay=0)
    optimizer = build_optimizer(trained, config, scaled=False)
    averages = make_averages(trained, optimizer, 0.0)
    assert averages is not None
    weight = weights_of(trained)
    for _ in range(3):
        weight.grad = torch.ones(4)
        optimizer.step()
    before, z = weight.detach().clone(), optimizer.state[weight]["z"]
    with published_weights(averages):
        # y = (1 - beta) z + beta x (arXiv 2405.15682): x is what is published.
        assert torch.allclose(weight, (before - (1 - 0.9) * z) / 0.9)
        assert not torch.equal(weight, before)
    assert torch.equal(weight, before)
    assert optimizer.param_groups[0]["train_mode"] is True
