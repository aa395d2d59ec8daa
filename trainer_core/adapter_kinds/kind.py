"""What a kind of adapter is: what it can do (`AdapterKind`), and the arithmetic of its layers (`LayerKind`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from trainer_core.config.groups import AdapterOptionsConfig

Shape = tuple[int, ...]
Tensors = Mapping[str, "Tensor"]
"""A layer's tensors by the end of their key in files; float32."""


@dataclass(frozen=True)
class AdapterTarget:
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
    shape: Shape = ()
    """Of the frozen weight, which may be stored in another one; that of `weight` if empty."""

    @property
    def weight_shape(self) -> Shape:
        """Shape of the frozen weight as a matrix or a kernel."""
        return self.shape or tuple(self.weight().shape)


SETTINGS_OF_SOME = (
    "adapter.dropout",
    "adapter.rank_dropout",
    "adapter.train_norm",
    "adapter_options.rslora",
    "adapter_options.factor",
    "adapter_options.full_matrix",
    "adapter_options.block_size",
    "adapter_options.constraint",
    "adapter_options.rescaled",
    "adapter_options.tucker",
    "adapter_options.decompose",
)
"""Settings that only some kinds support; all others are supported by all."""
FACTORED = frozenset({"adapter.dropout", "adapter.rank_dropout", "adapter_options.rslora"})
"""Settings of the kinds whose update is made of low-rank factors."""
TRAINS_NORMS = frozenset({"adapter.train_norm"})


@dataclass(frozen=True)
class AdapterKind:
    """What a value of `adapter.type` can do. Everything outside this package asks these fields, never the name."""

    name: str
    layers: str
    """Kind of its layers: a key of `layer_kinds()`."""
    settings: frozenset[str] = frozenset()
    """Which of `SETTINGS_OF_SOME` it supports."""
    scaled: bool = True
    """Whether alpha / rank scales the update."""
    has_rank: bool = True
    """Whether `adapter.rank` decides its size."""
    two_matrices: bool = True
    """Whether it has up and down matrices, whose rates LoRA+ sets apart."""
    product: bool = False
    """Whether files hold it as LoRA's product of two matrices, which every reader loads."""
    magnitudes: bool = False
    """Whether it trains DoRA's magnitudes without being asked."""
    with_peft: bool = False
    """Whether PEFT puts it on the model."""
    adapts_convolutions: bool = False
    """Whether convolutions larger than 1x1 are adapted when `adapter.conv_rank` is not set."""
    nested_ranks: bool = False
    """Whether each step trains the ranks up to a randomly drawn one (DyLoRA)."""
    reads_weight: bool = False
    """Whether it computes with the base's weight itself, which must not be quantised."""
    trains_every_weight: bool = False
    """Whether its tensors are as large as the base's, so that it needs a small learning rate."""
    comfyui_loads: bool = True
    comfyui_loads_scales: bool = True
    """Whether ComfyUI applies the scales of `adapter_options.rescaled`."""
    lycoris_loads: bool = True
    """Whether `create_lycoris_from_weights` loads it."""
    kohya_algo: str | None = ""
    """`algo` of LyCORIS in kohya's metadata; the kind's name if empty, none at all if None."""
    kohya_block_size: str = "block_size"
    """What LyCORIS calls `adapter_options.block_size` for this kind."""

    @property
    def plain_lora(self) -> bool:
        """Whether files hold it as a plain LoRA, unless options change that."""
        return self.product and not self.magnitudes


@dataclass(frozen=True)
class LayerKind:
    """The layers of a kind: pure functions over their tensors.

    Every kind says what it adds to `z`; those whose update is a matrix of its own, whatever the weight and the input
    are, say it as a matrix, and can also be decomposed as DoRA is.
    """

    start: Callable[[AdapterTarget, AdapterOptionsConfig, Generator], dict[str, Tensor]]
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
    marks: tuple[str, ...] = ()
    """Ends of keys that tell this kind in a file: any of them will do."""
    ends: tuple[str, ...] = ()
    """All ends of its keys in files, beside plain LoRA's and `alpha`."""
    is_stored_as: Callable[[Tensors], bool] | None = None
    """Tells kinds with the same marks apart; None where the marks are enough."""
    updated_shape: Callable[[Tensors, Shape], Shape] | None = None
    """(tensors, shape of the weight) -> the shape of the weight that they would change; None: that of `matrix`."""
    peft_tensors: Callable[[Tensors], Tensors] | None = None
    """Its tensors as PEFT's keys hold them, alpha / rank included; None if diffusers reads no such layers."""
    not_in_comfyui: frozenset[str] = frozenset()
    """Ends of keys that ComfyUI leaves out for this kind."""
    in_files: str = ""
    """Kind that files know it as; its own name if empty."""
    runs_as: Callable[[Tensors], str] | None = None
    """Name of the kind whose `update` fits these tensors; None where it is always this one."""
    outputs_fit: Callable[[int, int], bool] | None = None
    """(outputs of a module, block size) -> whether it can be adapted; None where every module can."""


def matrix_of(kind: LayerKind, tensors: Tensors, call: Call) -> Tensor:
    """Return a layer's matrix, made in float32 whatever precision models run in: sums with a weight need the digits."""
    assert kind.matrix is not None, "a kind has a matrix or an update"
    with torch.autocast(call.x.device.type, enabled=False):
        return kind.matrix(tensors, call.weight_shape, call.keep)


def scale(tensors: Tensors, rank: int) -> Tensor | float:
    """Return alpha / rank."""
    return tensors["alpha"] / rank if "alpha" in tensors else 1.0


def kaiming(shape: Shape, generator: Generator) -> Tensor:
    """Return what nn.Linear's own initialisation draws: uniform within 1 / sqrt(fan in)."""
    tensor = torch.empty(shape)
    bound = (tensor[0].numel() or 1) ** -0.5
    return tensor.uniform_(-bound, bound, generator=generator)


def normal(shape: Shape, std: float, generator: Generator) -> Tensor:
    """Return numbers from a normal distribution of mean zero."""
    return torch.empty(shape).normal_(std=std, generator=generator)
