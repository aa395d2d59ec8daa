"""Every optimizer of the table on a real LoRA: the loss falls, and a stopped run goes on bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trainer_core.adapters.adapter import ADAPTERS
from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig, OptimizerConfig
from trainer_core.config.optimizers import OPTIMIZERS
from trainer_core.train.optim.build import TrainedPart, build_optimizer
from trainer_core.train.optim.state import optimizer_state, restore_optimizer
from trainer_core.train.run_state.checkpoint import TrainState, load_latest, save_state

RATES = {"sgdnesterov": 2.0, "sgdnesterov8bit": 2.0, "sgdschedulefree": 10.0, "radamschedulefree": 0.03}
"""Rates for the tiny model; others take 0.01, and those that find their own the table's."""
STEPS = {"dadaptsgd": 230, "dadaptadagrad": 80, "dadaptadam": 80, "dadaptadan": 60, "prodigy": 100}
"""Steps until an estimate that begins at 1e-6 has grown; others take 40."""
PAGED = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")


class Tiny:
    """A LoRA on the tiny SD1.5 denoiser, with factors large enough for 8-bit state, and one batch of it."""

    def __init__(self, base: Path, name: str) -> None:
        from diffusers import UNet2DConditionModel

        self.denoiser = UNet2DConditionModel.from_pretrained(base / "unet")
        presets = {"attention": r".*attn\d\.to_(q|k|v|out\.0)"}
        self.parameters = ADAPTERS["lora"].attach(
            self.denoiser, AdapterConfig(rank=160, alpha=160), AdapterOptionsConfig(), presets, 7
        )
        lr = OPTIMIZERS[name].lr if OPTIMIZERS[name].adaptive else RATES.get(name, 0.01)
        config = OptimizerConfig(name=name, lr=lr)
        part = TrainedPart("unet", self.denoiser, self.parameters, lr)
        self.optimizer = build_optimizer([part], config, scaled=False)
        generator = torch.Generator().manual_seed(3)
        self.noisy, self.noise = (torch.randn(4, 4, 8, 8, generator=generator) for _ in range(2))
        width = int(self.denoiser.config["cross_attention_dim"])
        self.text = torch.randn(4, 6, width, generator=generator)

    def loss(self) -> Tensor:
        prediction = self.denoiser(self.noisy, torch.tensor([100, 300, 500, 900]), self.text).sample
        return (prediction - self.noise).square().mean()

    def train(self, steps: int) -> list[float]:
        losses: list[float] = []
        for _ in range(steps):
            loss = self.loss()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            losses.append(float(loss.detach()))
        return losses


@pytest.fixture(scope="module")
def tiny(tiny_bases: dict[str, Path]) -> Callable[[str], Tiny]:
    return lambda name: Tiny(tiny_bases["sd15"], name)


@PAGED
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.setting("optimizer.name", "optimizer.lr")
def test_every_optimizer_makes_the_loss_of_a_lora_fall(tiny: Callable[[str], Tiny], name: str) -> None:
    losses = tiny(name).train(STEPS.get(name, 40))
    assert losses[-1] < 0.97 * losses[0], losses[::5]


@PAGED
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.setting("optimizer.name")
def test_every_optimizer_goes_on_with_a_lora_bit_for_bit(
    tiny: Callable[[str], Tiny], name: str, tmp_path: Path
) -> None:
    whole, first, second = tiny(name), tiny(name), tiny(name)
    whole.train(5)
    first.train(3)
    adapter = {key: value.detach() for key, value in first.parameters.items()}
    save_state(tmp_path, TrainState(3, adapter, optimizer_state(first.optimizer)))
    state = load_latest(tmp_path)
    assert state is not None
    with torch.no_grad():
        for key, parameter in second.parameters.items():
            parameter.copy_(state.adapter[key])
    restore_optimizer(second.optimizer, state.optimizer)
    second.train(2)
    assert all(torch.equal(second.parameters[key], value) for key, value in whole.parameters.items())
