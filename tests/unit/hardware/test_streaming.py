"""Swapped blocks: weights come when they are needed, gradients stay the same, and what cannot work is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer_core.hardware.streaming import RING, BlockStream, PlainCopier, frozen_weights, spread, swap_blocks

CPU = torch.device("cpu")


class Block(nn.Module):
    """A frozen layer with a trained low-rank update beside it."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(width, inner), nn.Linear(inner, width)
        self.requires_grad_(False)
        self.down, self.up = nn.Linear(width, 2, bias=False), nn.Linear(2, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(torch.tanh(self.widen(x))) + self.up(self.down(x))


class Model(nn.Module):
    def __init__(self, inner: tuple[int, ...], recompute: bool = True) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.blocks, self.recompute = nn.ModuleList(Block(6, size) for size in inner), recompute

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute else block(x)  # type: ignore[assignment]
        return x


def gradients(model: Model) -> list[Tensor]:
    model.zero_grad()
    model(torch.linspace(-1, 1, 18).reshape(3, 6)).square().mean().backward()
    return [one.grad.clone() for one in model.parameters() if one.grad is not None]


class Loads(PlainCopier):
    """Notes which block's weights went into which buffer."""

    def __init__(self) -> None:
        self.slots: list[int] = []

    def start(self, slot: int, target: Tensor, source: Tensor) -> None:
        self.slots.append(slot)
        super().start(slot, target, source)


@pytest.mark.setting("memory.blocks_to_swap")
@pytest.mark.parametrize("inner", [(8,) * 5, (8, 12, 8, 12, 8, 8), (8,)])
def test_gradients_are_those_of_a_model_that_lies_on_the_device(inner: tuple[int, ...]) -> None:
    model = Model(inner)
    expected = gradients(model)
    stream = swap_blocks(list(model.blocks), len(inner), CPU, PlainCopier())
    for _ in range(3):
        assert all(torch.equal(one, other) for one, other in zip(gradients(model), expected, strict=True))
    stream.remove()
    assert all(torch.equal(one, other) for one, other in zip(gradients(model), expected, strict=True))
    assert stream.blocks == []


def test_a_step_loads_each_block_forward_and_backward_but_for_those_that_are_still_there() -> None:
    model, copier = Model((8,) * 5), Loads()
    stream = swap_blocks(list(model.blocks), 5, CPU, copier)
    gradients(model)
    assert stream.loads == len(copier.slots) == 5 + (5 - RING)
    assert set(copier.slots) == set(range(RING))
    gradients(model)
    # the first two are where the backward pass left them
    assert stream.loads == 2 * (5 + (5 - RING)) - RING


def test_blocks_of_one_shape_share_buffers_and_what_is_small_or_trained_stays() -> None:
    model = Model((8, 8, 8, 16, 16, 16))
    stream = swap_blocks(list(model.blocks), 6, CPU, PlainCopier())
    small, large = (2 * 6 * inner * 4 for inner in (8, 16))
    assert stream.device_bytes == RING * (small + large)
    assert stream.nbytes == 3 * (small + large)
    blocks: Any = model.blocks
    for block in blocks:
        assert [(one.module, one.name) for one in frozen_weights(block)] == [
            (block.widen, "weight"),
            (block.narrow, "weight"),
        ]
        assert block.down.weight.requires_grad


def test_stored_bytes_of_a_quantised_layer_go_too() -> None:
    class Stored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.arange(12, dtype=torch.int8).reshape(3, 4))
            self.register_buffer("scale", torch.tensor([0.5, 1.0, 2.0]))

        def forward(self, x: Tensor) -> Tensor:
            return x @ (self.weight.float() * self.scale[:, None]).T  # type: ignore[operator]

    blocks: Any = [Stored() for _ in range(3)]
    stream = BlockStream(blocks, CPU, PlainCopier())
    assert stream.nbytes == 3 * 12
    x = torch.ones(1, 4)
    assert [block(x).tolist() for block in blocks] == [[[3.0, 22.0, 76.0]]] * 3


def test_without_recomputation_torch_refuses_a_backward_pass_over_weights_that_are_gone() -> None:
    model = Model((8,) * 4, recompute=False)
    swap_blocks(list(model.blocks), 4, CPU, PlainCopier())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients(model)


def test_no_block_is_loaded_that_the_backward_pass_still_needs() -> None:
    """Half of the blocks are swapped, the others lie on the device between them."""
    model = Model((8,) * 7)
    expected = gradients(model)
    stream = swap_blocks(list(model.blocks), 4, CPU, PlainCopier())
    assert stream.blocks == [model.blocks[position] for position in (0, 1, 3, 5)]
    assert all(torch.equal(one, other) for one, other in zip(gradients(model), expected, strict=True))


@pytest.mark.parametrize(
    ("count", "total", "positions"), [(0, 9, []), (3, 9, [0, 3, 6]), (4, 7, [0, 1, 3, 5]), (9, 9, list(range(9)))]
)
def test_swapped_blocks_are_spread_evenly(count: int, total: int, positions: list[int]) -> None:
    assert spread(count, total) == positions
