"""What a measurement depends on, and what it finds, as plain data. No torch here."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from trainer_core.store.keys import digest
from trainer_core.types import JSON

VERSION = 1
"""Raise it when the same question would be answered otherwise: remembered answers are forgotten."""
_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "lycoris-lora")


@dataclass(frozen=True)
class Question:
    """All that decides the figures of a base with an adapter at a size of batch. No weights, no machine."""

    family: str
    pipeline: str
    """Class of the pipeline, which tells a variant from the family's main model."""
    configs: Mapping[str, JSON]
    """Component -> its config."""
    settings: Mapping[str, JSON]
    """Group -> fields, of the settings that decide what a step computes."""
    precision: str
    """Of the denoiser's arithmetic: fp32, bf16 or fp16."""
    encode_precision: Mapping[str, str]
    """`latents` and `text` -> precision of the VAE and of the encoders."""
    attention: str
    width: int
    """Of the largest bucket, in pixels."""
    height: int
    batch: int
    tokens: int
    """Of the longest caption, as the text encoders count it."""
    uneven: bool
    """Whether captions of a batch may differ in length, so that it has a mask."""
    controls: tuple[tuple[int, int], ...] = ()
    """(width, height) in pixels of each control picture of a sample."""
    live_text: bool = False
    """Whether the text encoders stay beside the denoiser."""

    @property
    def key(self) -> str:
        """Digest of the question, of the version of this package and of the libraries."""
        return digest({"question": self.as_dict(), "version": VERSION, "libraries": _versions()})

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Question:
        """Read what `as_dict` wrote."""
        controls = tuple((width, height) for width, height in data["controls"])
        values: dict[str, Any] = {**data, "controls": controls}
        return cls(**values)


@dataclass(frozen=True)
class Measured:
    """Bytes, without what a machine adds."""

    weights: Mapping[str, int]
    """`dense`, or `scheme modules` (`nf4 blocks`) -> the denoiser's weights."""
    blocks: Mapping[str, list[int]]
    """The same -> the weights of each block that can be swapped, in the order in which they work; empty for UNets."""
    matrix: Mapping[str, int]
    """The same -> the largest weight matrix as it is when it is multiplied; 0 where nothing is widened."""
    trained: int
    """Trained numbers."""
    optimizer: int
    """Of the optimizer's state."""
    averages: int
    """Of the averaged weights of `train.ema_decay`."""
    step: Mapping[str, Mapping[int, int]]
    """Gradient checkpointing (`false`, `every_second`, `true`) -> micro-batch -> most bytes that both passes need at
    once, gradients included."""
    kept: Mapping[int, int]
    """Micro-batch -> bytes that checkpointed blocks keep between both passes."""
    forward: Mapping[int, int]
    """Batch -> most bytes that a forward pass without gradients needs at once."""
    vae: int
    """Weights of the VAE."""
    encode: Mapping[int, int]
    """Batch -> most bytes of encoding pictures."""
    decode: int
    """Most bytes of decoding one picture."""
    encoders: Mapping[str, int]
    """Text encoder -> its weights."""
    read: Mapping[int, int]
    """Batch -> most bytes of reading captions."""
    convolutions: bool
    """Whether the denoiser is made of convolutions, whose kernels want a work space of their own."""
    seconds: float = field(default=0.0, compare=False)
    """What measuring took."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Measured:
        """Read what `as_dict` wrote; JSON has made the sizes of batches texts."""
        step = {mode: _sizes(sizes) for mode, sizes in data["step"].items()}
        by_size = {name: _sizes(data[name]) for name in ("kept", "forward", "encode", "read")}
        values: dict[str, Any] = {**data, "step": step, **by_size}
        return cls(**values)


def at(sizes: Mapping[int, int], batch: int) -> int:
    """Return the bytes of a batch, on the line through the sizes that were measured.

    Args:
        sizes: batch -> bytes; one or two of them.
        batch: at least 1.
    """
    if batch in sizes:
        return sizes[batch]
    small, large = min(sizes), max(sizes)
    if small == large:
        return sizes[small] * batch // small
    slope = (sizes[large] - sizes[small]) / (large - small)
    return round(sizes[small] + slope * (batch - small))


def _sizes(sizes: Mapping[Any, int]) -> dict[int, int]:
    return {int(batch): size for batch, size in sizes.items()}


@cache
def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found
