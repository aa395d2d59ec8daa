"""Our LoRA layer computes what PEFT's does, with exact gradients; PEFT is the judge."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from trainer_core.adapters.fast_lora import fits, use_fast_lora

F32, BF16 = torch.float32, torch.bfloat16


class Attention(nn.Module):
    """Three layers on one input, and one on their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(24, 16, bias=bias) for bias in (True, False, True))
        self.out = nn.Linear(16, 24)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.q(x)) * self.k(x) + self.v(x))


def model(dtype: torch.dtype, fast: bool, **lora: Any) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = Attention().to(dtype).requires_grad_(False)
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 3, "target_modules": ["q", "k", "v", "out"]}
    config = LoraConfig(**(settings | lora))
    inject_adapter_in_model(config, made)
    for name, parameter in made.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.2
    if fast:
        use_fast_lora(made)
    return made


def gradients(made: nn.Module, x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    x = x.clone().requires_grad_(True)
    with torch.autocast("cpu", BF16, enabled=dtype is BF16):
        output = made(x)
    output.float().square().mean().backward()
    trained = [one.grad for one in made.parameters() if one.grad is not None]
    assert x.grad is not None
    return [output.detach().float(), x.grad.float(), *(one.float() for one in trained)]


@pytest.mark.parametrize("shape", [(5, 24), (2, 7, 24), (2, 3, 4, 24)])
@pytest.mark.parametrize(("given", "dtype", "tolerance"), [(F32, F32, 1e-6), (BF16, BF16, 2e-2), (F32, BF16, 2e-2)])
def test_outputs_and_gradients_are_those_of_peft(
    shape: tuple[int, ...], given: torch.dtype, dtype: torch.dtype, tolerance: float
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(given)
    slow, fast = (gradients(model(dtype, fast), x, dtype) for fast in (False, True))
    assert len(slow) == len(fast) == 2 + 8
    for one, other in zip(slow, fast, strict=True):
        assert ((one - other).norm() / one.norm()).item() < tolerance


def test_in_half_precision_it_is_not_further_from_float32_than_peft() -> None:
    x = torch.randn(64, 24, generator=torch.Generator().manual_seed(1))
    exact = gradients(model(F32, fast=False), x, F32)
    slow, fast = (gradients(model(BF16, fast), x.to(BF16), BF16) for fast in (False, True))

    def error(found: list[Tensor]) -> float:
        return sum(((one - true).norm() / true.norm()).item() for one, true in zip(found, exact, strict=True))

    assert error(fast) < 1.1 * error(slow)


def test_gradients_are_exact() -> None:
    made: Any = model(F32, fast=True).double()
    x = torch.randn(3, 24, dtype=torch.float64, requires_grad=True)
    trained = [one for one in made.parameters() if one.requires_grad]
    assert torch.autograd.gradcheck(lambda *_: made(x), (x, *trained))


@pytest.mark.parametrize("fast", [False, True])
def test_one_copy_of_an_input_in_another_precision_is_kept(fast: bool) -> None:
    kept: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    made = model(BF16, fast)
    with torch.autocast("cpu", BF16), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        # not a leaf, whose casts autocast keeps itself
        made(torch.randn(64, 24, requires_grad=True) * 2.0)
    copies = len({one.data_ptr() for one in kept if one.dtype is BF16 and one.shape == (64, 24)})
    assert copies == 1 if fast else copies >= 3


def test_disabled_it_is_the_base() -> None:
    made: Any = model(F32, fast=True)
    x = torch.randn(3, 24)
    base = Attention().requires_grad_(False)
    torch.manual_seed(0)
    base = Attention()
    for module in made.modules():
        if hasattr(module, "enable_adapters"):
            module.enable_adapters(False)
    assert torch.equal(made(x), base(x))


@pytest.mark.parametrize("lora", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_what_is_not_plain_stays_with_peft(lora: dict[str, Any]) -> None:
    assert not any(map(fits, model(F32, fast=False, target_modules=["q"], **lora).modules()))


def test_layers_with_hooks_stay_with_peft() -> None:
    made: Any = model(F32, fast=False)
    assert sum(map(fits, made.modules())) == 4
    made.q.lora_A["default"].register_forward_hook(lambda *_: None)
    made.v.base_layer.register_forward_pre_hook(lambda *_: None)
    assert sum(map(fits, made.modules())) == 2
