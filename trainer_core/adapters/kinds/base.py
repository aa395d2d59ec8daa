"""What a kind of adapter is: how its tensors begin, and what they add to a module's output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from trainer_core.config.groups import AdapterOptionsConfig

Shape = tuple[int, ...]
Tensors = Mapping[str, "Tensor"]
"""A layer's tensors by the end of their key in files; float32."""


@dataclass(frozen=True)
class Place:
    """A module that gets an adapter."""

    name: str
    shape: Shape
    """Of its weight: [out, in], or [out, in, height, width]."""
    rank: int
    alpha: float
    """The update is scaled by alpha / rank."""


@dataclass(frozen=True)
class Call:
    """One run of a module that carries an adapter."""

    x: Tensor
    """The module's input."""
    z: Tensor
    """What the frozen weight makes of it, without the bias."""
    weight: Callable[[], Tensor]
    """The frozen weight."""
    apply: Callable[[Tensor, Tensor], Tensor]
    """(input, weight) -> output without a bias, with the module's stride and padding."""
    strides: Mapping[str, object]
    """Stride, padding and dilation of a convolution; empty for a linear layer."""
    keep: Tensor | None = None
    """[rank]: 0 for a rank that is dropped, 1 / (1 - share) for one that is kept; None outside training."""


@dataclass(frozen=True)
class Kind:
    """A kind of adapter: pure functions over its tensors.

    Every kind says what it adds to `z`; those whose update is a matrix of its own, whatever the weight and the input
    are, say it as a matrix, and can also be decomposed as DoRA is.
    """

    start: Callable[[Place, AdapterOptionsConfig, Generator], dict[str, Tensor]]
    """Tensors of an update of zero, which can learn."""
    matrix: Callable[[Tensors, Shape, Tensor | None], Tensor] | None = None
    """(tensors, shape of the weight, `Call.keep`) -> the update [shape], float32."""
    update: Callable[[Tensors, Call], Tensor] | None = None
    """What is added to `z`, [z's shape]; `matrix` applied to the input where there is none."""
    fixed: frozenset[str] = frozenset({"alpha"})
    """Tensors that are not trained."""
    scaled: tuple[tuple[str, ...], ...] = ()
    """Groups of tensors; the first of each group that a layer has takes up a factor of the whole update."""
    balance: tuple[tuple[str, str], ...] = ()
    """(tensor that starts at zero, the one that it is multiplied with): factors may move between the two."""
    rank: Callable[[Tensors], int] | None = None
    """How many ranks can be dropped; None for kinds without any. 0 where a layer's tensors are whole."""


def added(kind: Kind, tensors: Tensors, call: Call) -> Tensor:
    """Return what a layer adds to `call.z`, in the layer's precision."""
    if "dora_scale" in tensors:
        from trainer_core.adapters.kinds.decomposed import decomposed

        return decomposed(kind, tensors, call)
    if kind.update is not None:
        return kind.update(tensors, call)
    return call.apply(call.x, matrix_of(kind, tensors, call))


def matrix_of(kind: Kind, tensors: Tensors, call: Call) -> Tensor:
    """Return a layer's matrix, made in float32 whatever precision models run in: sums with a weight need the digits."""
    import torch

    assert kind.matrix is not None, "a kind has a matrix or an update"
    with torch.autocast(call.x.device.type, enabled=False):
        return kind.matrix(tensors, tuple(call.weight().shape), call.keep)


def scale(tensors: Tensors, rank: int) -> Tensor | float:
    """Return alpha / rank."""
    return tensors["alpha"] / rank if "alpha" in tensors else 1.0


def kaiming(shape: Shape, generator: Generator) -> Tensor:
    """Return what nn.Linear's own initialisation draws: uniform within 1 / sqrt(fan in)."""
    import torch

    tensor = torch.empty(shape)
    bound = (tensor[0].numel() or 1) ** -0.5
    return tensor.uniform_(-bound, bound, generator=generator)


def normal(shape: Shape, std: float, generator: Generator) -> Tensor:
    """Return numbers from a normal distribution of mean zero."""
    import torch

    return torch.empty(shape).normal_(std=std, generator=generator)
