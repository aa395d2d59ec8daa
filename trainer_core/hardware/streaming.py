"""Block swap: frozen weights of some blocks lie in the computer's memory and come to the device when they are needed.

Frozen weights never change, so they are copied to the device and never back. Blocks of the same shape share a ring of
two buffers: while one block works, the next one's weights arrive in the other. Each block must be computed again in the
backward pass (gradient checkpointing), which asks for its weights a second time; torch itself raises where a buffer was
written over that a backward pass still needs. Gradients are those of a model that lies on the device, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

RING = 2
"""Buffers on the device for blocks of one shape: one that works and one that is filled."""
_ALIGNED = 64
"""Bytes that tensors begin at multiples of, as torch's own do."""


class Copier(Protocol):
    """Moves the weights of a block from the computer's memory to the device."""

    def master(self, flat: Tensor) -> Tensor:
        """Return a copy in the computer's memory that the device can read fast."""
        ...

    def start(self, slot: int, target: Tensor, source: Tensor) -> None:
        """Begin to fill a buffer, after the work that uses it."""
        ...

    def wait(self, slot: int) -> None:
        """Let the work that follows wait until the buffer is filled."""
        ...

    def used(self, slot: int) -> None:
        """Remember that the work up to here uses the buffer."""
        ...


class PlainCopier:
    """Copies at once; for a device that works in step with the program."""

    def master(self, flat: Tensor) -> Tensor:
        """Return a copy on the CPU."""
        return flat.to("cpu", copy=True)

    def start(self, slot: int, target: Tensor, source: Tensor) -> None:
        """Copy."""
        target.copy_(source)

    def wait(self, slot: int) -> None:
        """Do nothing: the copy is done."""

    def used(self, slot: int) -> None:
        """Do nothing: the work is done."""


class CudaCopier:
    """Copies from pinned memory on a stream of its own, beside the work."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.filled: dict[int, Any] = {}
        self.free: dict[int, Any] = {}

    def master(self, flat: Tensor) -> Tensor:
        """Return a pinned copy, or a plain one where the system lets no more memory be pinned."""
        host = flat.to("cpu", copy=True)
        try:
            return host.pin_memory()
        except RuntimeError:
            return host

    def start(self, slot: int, target: Tensor, source: Tensor) -> None:
        """Copy on the own stream, after the work that was remembered."""
        with torch.cuda.stream(self.stream):
            if slot in self.free:
                self.stream.wait_event(self.free[slot])
            target.copy_(source, non_blocking=True)
            self.filled[slot] = self.stream.record_event()

    def wait(self, slot: int) -> None:
        """Let the stream of the work wait for the copy."""
        torch.cuda.current_stream(self.device).wait_event(self.filled[slot])

    def used(self, slot: int) -> None:
        """Remember where the work is."""
        self.free[slot] = torch.cuda.current_stream(self.device).record_event()


@dataclass(frozen=True)
class Weight:
    """A frozen tensor of a block, and where it lies in the block's flat copy."""

    module: Any
    name: str
    is_buffer: bool
    shape: torch.Size
    dtype: torch.dtype
    start: int
    """In bytes."""
    nbytes: int

    def view(self, flat: Tensor) -> Tensor:
        """Return the tensor in a flat copy, which is uint8."""
        return flat[self.start : self.start + self.nbytes].view(self.dtype).view(self.shape)

    def put(self, tensor: Tensor) -> None:
        """Let the module have a tensor as this weight."""
        if self.is_buffer:
            self.module._buffers[self.name] = tensor
        else:
            self.module._parameters[self.name] = tensor


@dataclass
class _Slot:
    """A buffer on the device, and the block whose weights are in it."""

    number: int
    flat: Tensor
    block: int | None = None


@dataclass
class _Block:
    """A block that is swapped."""

    module: nn.Module
    weights: list[Weight]
    master: Tensor
    slot: _Slot
    views: list[Tensor] = field(default_factory=list[Tensor])


class BlockStream:
    """The blocks of a model that are swapped. Keep it as long as the model is used; `remove` undoes it."""

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device, copier: Copier) -> None:
        """Take the weights of blocks off the device.

        Args:
            blocks: in the order in which they run; their adapters are attached, their weights frozen.
            device: where the work is.
            copier: for `device`.
        """
        self.copier, self.device, self.loads = copier, device, 0
        """`loads`: copies to the device so far."""
        self._blocks: list[_Block] = []
        self._slots: dict[tuple[object, ...], list[_Slot]] = {}
        self._counts: dict[tuple[object, ...], int] = {}
        self._current = -1
        self._hooks = [self._take(index, block) for index, block in enumerate(blocks)]

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks that are swapped."""
        return [block.module for block in self._blocks]

    @property
    def nbytes(self) -> int:
        """Bytes in the computer's memory."""
        return sum(block.master.nbytes for block in self._blocks)

    @property
    def device_bytes(self) -> int:
        """Bytes of the buffers on the device."""
        return sum(slot.flat.nbytes for ring in self._slots.values() for slot in ring)

    def remove(self) -> None:
        """Put all weights back onto the device."""
        for hook in self._hooks:
            hook.remove()
        for block in self._blocks:
            flat = block.master.to(self.device, copy=True)
            for weight in block.weights:
                weight.put(_as_weight(weight, flat))
        self._blocks.clear()

    def _take(self, index: int, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        weights = frozen_weights(module)
        size = max((weight.start + weight.nbytes for weight in weights), default=0)
        flat = torch.empty(size, dtype=torch.uint8, device=_device(weights, self.device))
        for weight in weights:
            weight.view(flat).copy_(_tensor(weight))
        slot = self._slot(tuple((weight.name, weight.shape, weight.dtype) for weight in weights), size)
        block = _Block(module, weights, self.copier.master(flat), slot)
        block.views = [_as_weight(weight, slot.flat) for weight in weights]
        for weight, view in zip(weights, block.views, strict=True):
            weight.put(view)
        self._blocks.append(block)
        return module.register_forward_pre_hook(lambda *_: self._need(index))

    def _slot(self, shape: tuple[object, ...], size: int) -> _Slot:
        """Return the buffer of the next block of a shape: they take turns."""
        ring, count = self._slots.setdefault(shape, []), self._counts.get(shape, 0)
        self._counts[shape] = count + 1
        if len(ring) < RING:
            number = sum(map(len, self._slots.values()))
            ring.append(_Slot(number, torch.empty(size, dtype=torch.uint8, device=self.device)))
        return ring[count % RING]

    def _need(self, index: int) -> None:
        """Have the weights of a block on the device, and begin to load those of the one that comes next."""
        block, before = self._blocks[index], self._current
        if before >= 0:
            self.copier.used(self._blocks[before].slot.number)
        self._load(index)
        self.copier.wait(block.slot.number)
        self._current = index
        # Forward, blocks follow each other upwards; the backward pass computes them again downwards.
        following = index + (1 if index > before else -1)
        if 0 <= following < len(self._blocks) and self._blocks[following].slot is not block.slot:
            self._load(following)

    @torch.no_grad()
    def _load(self, index: int) -> None:
        block = self._blocks[index]
        if block.slot.block != index:
            self.copier.start(block.slot.number, block.slot.flat, block.master)
            block.slot.block = index
            self.loads += 1


def frozen_weights(block: nn.Module) -> list[Weight]:
    """Return the weights of a block that can be swapped: its frozen matrices, quantised ones with them.

    Vectors stay on the device, as they are small; so do tensors of a class of their own, such as bitsandbytes'.
    """
    found: list[Weight] = []
    start = 0
    modules: Iterable[Any] = block.modules()
    for module in modules:
        buffers = dict(module.named_buffers(recurse=False, remove_duplicate=False))
        tensors = {**dict(module.named_parameters(recurse=False, remove_duplicate=False)), **buffers}
        for name, tensor in tensors.items():
            if tensor.ndim < 2 or tensor.requires_grad or type(tensor) not in (nn.Parameter, Tensor):
                continue
            is_buffer = name in buffers
            found.append(Weight(module, name, is_buffer, tensor.shape, tensor.dtype, start, tensor.nbytes))
            start += -(-tensor.nbytes // _ALIGNED) * _ALIGNED
    return found


def spread(count: int, total: int) -> list[int]:
    """Return `count` of the positions 0 ... total - 1, evenly spread, so that loads and work take turns."""
    return sorted({position * total // count for position in range(count)}) if count else []


def swap_blocks(blocks: Sequence[nn.Module], count: int, device: torch.device, copier: Copier) -> BlockStream:
    """Swap `count` of a model's blocks, evenly spread."""
    return BlockStream([blocks[position] for position in spread(count, len(blocks))], device, copier)


def copier_for(device: torch.device) -> Copier:
    """Return what copies to a device."""
    return CudaCopier(device) if device.type == "cuda" else PlainCopier()


def _tensor(weight: Weight) -> Tensor:
    tensor = getattr(weight.module, weight.name)
    assert isinstance(tensor, Tensor)
    return tensor.detach()


def _device(weights: Sequence[Weight], default: torch.device) -> torch.device:
    return _tensor(weights[0]).device if weights else default


def _as_weight(weight: Weight, flat: Tensor) -> Tensor:
    view = weight.view(flat)
    return view if weight.is_buffer else nn.Parameter(view, requires_grad=False)
