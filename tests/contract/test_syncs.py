"""A training step never waits for the device: nothing of it asks a tensor for a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.support import Tiny
from tests.contract.test_step_memory import Trained
from tests.syncs import Syncs
from trainer_core.config.groups import AdapterConfig

LUMINA = "tolist in diffusers/models/transformers/transformer_lumina2.py"
OF_DIFFUSERS = {"lumina2": {LUMINA}}
"""Model -> calls in diffusers' own code, which ask for the lengths of captions once a forward pass."""


def test_forward_and_backward_pass_ask_the_device_for_nothing(tiny: Tiny) -> None:
    trained = Trained(tiny)
    with Syncs() as syncs:
        trained.gradients()
    assert {call.partition(":")[0] for call in syncs.calls} == OF_DIFFUSERS.get(tiny.name, set())


@pytest.mark.parametrize(
    ("kind", "dropout"),
    [
        ("lora", {"rank_dropout": 0.5, "module_dropout": 0.5, "dropout": 0.1}),
        ("loha", {"rank_dropout": 0.5, "module_dropout": 0.5}),
        ("lokr", {}),
    ],
)
def test_adapters_that_drop_ranks_and_modules_ask_for_nothing(
    open_family: Callable[[str], Tiny], kind: str, dropout: dict[str, Any]
) -> None:
    tiny = open_family("flux1")
    trained = Trained(tiny, AdapterConfig(type=kind, rank=4, alpha=4.0, **dropout))  # type: ignore[arg-type]
    with Syncs() as syncs:
        trained.gradients()
    assert syncs.calls == []


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool(x.sum() > 0),
        lambda x: float(x.sum()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.to("cpu"),
        lambda x: x.cpu(),
    ],
)
def test_each_call_that_would_wait_is_noticed(call: Callable[[Tensor], Any]) -> None:
    with Syncs() as syncs:
        call(torch.ones(3))
    assert len(syncs.calls) >= 1


def test_calls_that_stay_on_the_device_are_not_noticed() -> None:
    x = torch.ones(3)
    with Syncs() as syncs:
        torch.where(x > 0, x, 0.0).to(x.device, torch.bfloat16).masked_fill(x > 0, 1.0)[:2].sum()
    assert syncs.calls == []
