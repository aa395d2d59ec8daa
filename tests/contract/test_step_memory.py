"""What makes a step fit changes no gradient: checkpointing of some blocks, swapped blocks, offloaded activations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.support import Tiny, losses, pixels, rows
from trainer_core.adapters.adapter import ADAPTERS
from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig
from trainer_core.families.shared import loading
from trainer_core.hardware.step_plan import Checkpointing
from trainer_core.hardware.streaming import PlainCopier, swap_blocks
from trainer_core.train.memory.checkpointing import set_checkpointing
from trainer_core.train.memory.fitted import swappable_blocks
from trainer_core.train.memory.offload import activations_offloaded

U = torch.tensor([0.3, 0.7])
CPU = torch.device("cpu")


class Trained:
    """A tiny model with a LoRA that does something, and a loss of two samples."""

    def __init__(self, tiny: Tiny, adapter: AdapterConfig | None = None) -> None:
        self.denoiser: Any = loading.load_denoiser(tiny.source, torch.float32)
        spec = tiny.family.spec
        adapter = adapter or AdapterConfig(rank=2, alpha=2.0)
        attach = ADAPTERS[adapter.type].attach
        self.parameters = attach(self.denoiser, adapter, AdapterOptionsConfig(), spec.targets, 3)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in self.parameters.values():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        self.denoiser.train()
        self.blocks = swappable_blocks(self.denoiser, spec)
        self._tiny = Tiny(**{**tiny.__dict__, "denoiser": self.denoiser})
        self._latents, self._text = tiny.family.encode_latents(tiny.vae, pixels()), rows(tiny)

    def gradients(self, offload: bool = False) -> dict[str, Tensor]:
        """Return the gradients by name, and the loss."""
        self.denoiser.zero_grad()
        with activations_offloaded(offload, smallest=0):
            loss = losses(self._tiny, self._latents, self._text, U).mean()
        loss.backward()
        found = {name: one.grad.clone() for name, one in self.parameters.items() if one.grad is not None}
        return found | {"loss": loss.detach()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.setting("train.gradient_checkpointing", "memory.offload_activations")
def test_gradients_are_the_same_bits_whatever_makes_the_step_fit(tiny: Tiny) -> None:
    trained = Trained(tiny)
    plain = trained.gradients()
    assert any(gradient.abs().max() > 0 for name, gradient in plain.items() if name != "loss")
    set_checkpointing(trained.denoiser, "every_second")
    assert same(trained.gradients(), plain)
    set_checkpointing(trained.denoiser, "all")
    assert same(trained.gradients(offload=True), plain)
    count = len(trained.blocks)
    if not count:
        return
    stream = swap_blocks(trained.blocks, count, CPU, PlainCopier())
    assert stream.nbytes > 0
    for _ in range(2):
        assert same(trained.gradients(), plain)
    stream.remove()
    assert same(trained.gradients(), plain)


def test_every_second_block_is_computed_twice(open_family: Any) -> None:
    trained = Trained(open_family("z_image"))
    calls = dict.fromkeys(range(len(trained.blocks)), 0)

    def count(position: int) -> Any:
        def note(*_: Any) -> None:
            calls[position] += 1

        return note

    for position, block in enumerate(trained.blocks):
        block.register_forward_pre_hook(count(position))
    expectations: tuple[tuple[Checkpointing, set[int]], ...] = (
        ("off", {1}),
        ("every_second", {1, 2}),
        ("all", {2}),
        ("off", {1}),
    )
    for which, expected in expectations:
        calls.update(dict.fromkeys(calls, 0))
        set_checkpointing(trained.denoiser, which)
        trained.gradients()
        assert set(calls.values()) == expected, which
