"""A frozen linear layer whose weight is held as 8- or 4-bit numbers, and made a matrix again at each use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer_core.families.storage import fp8, int8, nf4
from trainer_core.families.storage.schemes import SCHEMES, SchemeName

Parts = Mapping[str, Tensor]


@dataclass(frozen=True)
class Codec:
    """The arithmetic of a scheme."""

    encode: Callable[[Tensor], dict[str, Tensor]]
    """Weight [out, in], floating -> its parts."""
    decode: Callable[[Parts, tuple[int, int], torch.dtype], Tensor]
    """(parts, (out, in), dtype) -> weight [out, in]."""
    multiply: Callable[[Tensor, Parts], Tensor] | None = None
    """(x [rows, in], parts) -> x @ weight.T by 8-bit kernels; None where there are none."""
    fits: Callable[[int, tuple[int, int]], bool] = lambda rows, shape: False
    """(rows, (out, in)) -> whether those kernels take them."""


CODECS: Mapping[str, Codec] = {
    "fp8": Codec(fp8.encode, fp8.decode, fp8.multiply, fp8.fits),
    "int8": Codec(int8.encode, int8.decode, int8.multiply, int8.fits),
    "nf4": Codec(nf4.encode, nf4.decode),
}


@dataclass(frozen=True)
class Form:
    """What a layer's parts are."""

    scheme: str
    shape: tuple[int, int]
    """Of the weight: [out, in]."""
    names: tuple[str, ...]
    eight_bit: bool
    """Whether the forward pass multiplies 8-bit numbers, where the kernels take them."""

    def parts(self, tensors: Sequence[Tensor]) -> Parts:
        """Return the tensors by name."""
        return dict(zip(self.names, tensors, strict=True))


class QuantisedLinear(nn.Linear):
    """y = x W^T + b with a W that nothing trains.

    It is an `nn.Linear` to libraries, so PEFT puts its ordinary LoRA on it, under the ordinary names. Its parts are
    parameters, not buffers, which distributed training would send around; they are held as integers of the same bits,
    so that no cast of the model changes them and nothing takes their dtype for that of the arithmetic. The backward
    pass makes the matrix again and keeps none.
    """

    def __init__(self, outputs: int, inputs: int, scheme: SchemeName, eight_bit: bool = False) -> None:
        """Make the layer without memory: its parts lie on the meta device until they are given.

        Args:
            outputs: of the layer.
            inputs: of the layer.
            scheme: of its weight.
            eight_bit: multiply 8-bit numbers in the forward pass, where the kernels take them.
        """
        nn.Module.__init__(self)
        self.out_features, self.in_features = outputs, inputs
        self.scheme, self.eight_bit = scheme, eight_bit
        self.stored = SCHEMES[scheme].parts(outputs, inputs)
        for name, part in self.stored.items():
            empty = torch.empty(part.shape, dtype=getattr(torch, part.held), device="meta")
            self.register_parameter(name, nn.Parameter(empty, requires_grad=False))
        self.register_parameter("bias", None)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """A tensor of the weight's shape and device without its numbers, for what looks at these; integers."""
        packed: Any = self.packed
        return packed.reshape(-1)[:1].expand(self.out_features, self.in_features)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Show the stand-in among the tensors of the model: diffusers looks a LoRA's base up there, for its shape."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight

    @property
    def parts(self) -> dict[str, Tensor]:
        """What stands for the weight, by name."""
        return {name: getattr(self, name).view(getattr(torch, part.dtype)) for name, part in self.stored.items()}

    def give(self, parts: Parts) -> None:
        """Take what stands for the weight."""
        for name, part in self.stored.items():
            held = parts[name].detach().view(getattr(torch, part.held))
            setattr(self, name, nn.Parameter(held, requires_grad=False))

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Return the weight [out, in]."""
        return CODECS[self.scheme].decode(self.parts, (self.out_features, self.in_features), dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Return [..., out] in the precision that autocast asks for, else in that of the input."""
        kind = input.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
        form = Form(self.scheme, (self.out_features, self.in_features), tuple(self.stored), self.eight_bit)
        return _Multiply.apply(input.to(dtype), self.bias, form, *self.parts.values())  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Return sizes and scheme."""
        return f"in_features={self.in_features}, out_features={self.out_features}, scheme={self.scheme}"


class _Multiply(torch.autograd.Function):
    """The gradient of x alone, from the matrix that the parts stand for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, form: Form, *tensors: Tensor) -> Tensor:
        ctx.form, ctx.dtype = form, x.dtype
        ctx.save_for_backward(*tensors)
        bias = None if bias is None else bias.to(x.dtype)
        parts, codec, rows = form.parts(tensors), CODECS[form.scheme], x.shape[:-1].numel()
        if form.eight_bit and codec.multiply and codec.fits(rows, form.shape):
            product = codec.multiply(x.reshape(rows, -1), parts).reshape(*x.shape[:-1], -1)
            return product if bias is None else product + bias
        return functional.linear(x, codec.decode(parts, form.shape, x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        form, (gradient,) = ctx.form, gradients
        matrix = CODECS[form.scheme].decode(form.parts(ctx.saved_tensors), form.shape, ctx.dtype)
        return gradient.to(ctx.dtype) @ matrix, None, None, *[None] * len(form.names)
