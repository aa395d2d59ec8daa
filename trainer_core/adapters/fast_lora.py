"""The LoRA of a frozen linear layer as one operation, in place of PEFT's five.

PEFT computes y = W x, a = A x, b = B a, c = s b, y + c, and autograd the same backwards: three passes over tensors as
large as the output and one over the input, which cost more than the small products between them. Here the scale is
applied to the small tensor, and both sums are made inside matrix products:

    forward    y = W x;  m = A x;  y += s B m
    backward   n = s Bᵀ g;  x' = Wᵀ g;  x' += Aᵀ n;  A' = n xᵀ;  B' = s g mᵀ

The gradients are exact, and each sum is rounded once instead of twice. Names, weights and files stay PEFT's.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "default"


class _LoraLinear(torch.autograd.Function):
    """x [N, in], weight [out, in], bias [out] or None, down [r, in], up [out, r], scale -> [N, out]."""

    @staticmethod
    def forward(  # noqa: PLR0913 - the parts of the layer
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        """Compute in x's precision."""
        narrow_down, narrow_up = down.to(x.dtype), up.to(x.dtype)
        middle = x @ narrow_down.T
        output = functional.linear(x, weight, bias)
        output.addmm_(middle, narrow_up.T, alpha=scale)
        ctx.save_for_backward(x, weight, narrow_down, narrow_up, middle)
        ctx.scale, ctx.trained = scale, down.dtype
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients of x, down and up; the base is frozen."""
        x, weight, down, up, middle = ctx.saved_tensors
        grad = grads[0]
        of_middle = (grad @ up).mul_(ctx.scale)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = grad @ weight
            of_x.addmm_(of_middle, down)
        of_down = (of_middle.T @ x).to(ctx.trained)
        of_up = (grad.T @ middle).to(ctx.trained).mul_(ctx.scale)
        return of_x, None, None, of_down, of_up, None


class _Narrowed:
    """The last input in the base's precision: query, key and value have one input, and keep one copy of it."""

    def __init__(self) -> None:
        self.given: weakref.ref[Tensor] | None = None
        self.narrow: Tensor | None = None

    def of(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return x in `dtype`."""
        if x.dtype == dtype:
            return x
        if self.narrow is None or self.given is None or self.given() is not x or self.narrow.dtype != dtype:
            self.given, self.narrow = weakref.ref(x), x.to(dtype)
        return self.narrow

    def forget(self, *_: object) -> None:
        """Let go of it, after a forward pass."""
        self.given = self.narrow = None


def use_fast_lora(model: nn.Module) -> int:
    """Let PEFT's plain LoRA layers on frozen linear layers compute as one operation; return how many do.

    Others stay PEFT's: convolutions, dropout, DoRA, quantised layers, layers with hooks.
    """
    count, narrowed = 0, _Narrowed()
    for module in model.modules():
        if fits(module):
            module.forward = _forward_of(module, narrowed)  # type: ignore[method-assign]
            count += 1
    model.register_forward_hook(narrowed.forget)
    return count


def fits(module: Any) -> bool:
    """Say whether a module is a plain LoRA on a plain, frozen linear layer."""
    from peft.tuners.lora.layer import Linear

    if type(module) is not Linear or type(module.base_layer) is not nn.Linear or NAME not in module.lora_A:
        return False
    parts: tuple[Any, ...] = (module.base_layer, module.lora_A[NAME], module.lora_B[NAME])
    hooked = any(part._forward_hooks or part._forward_pre_hooks for part in parts)
    plain = isinstance(module.lora_dropout[NAME], nn.Identity) and not module.lora_variant
    return plain and not hooked and not module.lora_bias[NAME] and not module.base_layer.weight.requires_grad


def _forward_of(module: Any, narrowed: _Narrowed) -> Callable[..., Tensor]:
    slow = module.forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if module.disable_adapters or module.merged or args or kwargs:
            return slow(x, *args, **kwargs)
        base = module.base_layer
        weight = base.weight
        flat = narrowed.of(x, weight.dtype).reshape(-1, x.shape[-1])
        output = _LoraLinear.apply(
            flat, weight, base.bias, module.lora_A[NAME].weight, module.lora_B[NAME].weight, module.scaling[NAME]
        )
        return output.view(*x.shape[:-1], output.shape[-1])  # type: ignore[union-attr]

    return forward
