"""The schemes as data: what each stores for a weight matrix, with which library. No torch here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from trainer_core.types import JSON

SchemeName = Literal["dense", "fp8", "int8", "nf4"]
StoredModules = Literal["blocks", "blocks+modulation", "all-linear"]
Compute = Literal["dense", "w8a8"]
StoredDtype = Literal["float8_e4m3fn", "uint8", "int8", "float32"]

STORAGE_VERSION = 1
"""Raise it when the same weights would be stored as other numbers, or under other names."""
_HELD: Mapping[str, tuple[str, int]] = {
    "float8_e4m3fn": ("uint8", 1),
    "uint8": ("uint8", 1),
    "int8": ("int8", 1),
    "float32": ("int32", 4),
}
"""Dtype -> integers of the same size that hold its bits, and their bytes."""
NF4_BLOCK, NF4_GROUP = 64, 256
"""Weights that share a scale, and scales that share one of their own (arXiv 2305.14314)."""


@dataclass(frozen=True)
class StoredPart:
    """A tensor that stands for a part of a weight matrix."""

    shape: tuple[int, ...]
    dtype: StoredDtype

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * _HELD[self.dtype][1]

    @property
    def held(self) -> str:
        """Dtype of the integers that hold its bits in a model: no cast of the model changes them."""
        return _HELD[self.dtype][0]


@dataclass(frozen=True)
class Scheme:
    """What stands for a weight matrix [out, in]."""

    name: SchemeName
    title: str
    parts: Callable[[int, int], Mapping[str, StoredPart]]
    """(out, in) -> name of a part -> its shape and dtype; the first is called `packed`."""
    matmul: str = ""
    """Smallest compute capability whose tensor cores multiply these numbers as they are ("8.9"); empty: none does."""
    library: str = ""
    """Package that makes and reads the numbers; empty where this program does."""
    needs: str = "nothing: any CPU or GPU"
    """Where it runs."""

    def nbytes(self, outputs: int, inputs: int) -> int:
        """Return the bytes of a weight matrix [outputs, inputs]."""
        return sum(part.nbytes for part in self.parts(outputs, inputs).values())


def _rows(dtype: StoredDtype) -> Callable[[int, int], Mapping[str, StoredPart]]:
    return lambda outputs, inputs: {
        "packed": StoredPart((outputs, inputs), dtype),
        "scale": StoredPart((outputs,), "float32"),
    }


def _nf4(outputs: int, inputs: int) -> Mapping[str, StoredPart]:
    blocks = math.ceil(outputs * inputs / NF4_BLOCK)
    return {
        "packed": StoredPart((math.ceil(outputs * inputs / 2), 1), "uint8"),
        "scale": StoredPart((blocks,), "uint8"),
        "scale_of_scales": StoredPart((math.ceil(blocks / NF4_GROUP),), "float32"),
        "mean_scale": StoredPart((), "float32"),
    }


SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp8", "8-bit floats (e4m3), one scale a row", _rows("float8_e4m3fn"), matmul="8.9"),
        Scheme("int8", "8-bit integers, one scale a row", _rows("int8"), matmul="7.5"),
        Scheme(
            "nf4",
            "4-bit NormalFloat, one scale for 64 weights, scales in 8 bits",
            _nf4,
            library="bitsandbytes",
            needs="bitsandbytes, which has kernels for CPUs and for NVIDIA GPUs",
        ),
    )
}
"""`memory.base` -> what it is. `dense` is not among them: nothing is done to its weights."""


@dataclass(frozen=True)
class Storage:
    """How the denoiser of a base is held: the scheme, which of its layers, and how they are multiplied."""

    scheme: SchemeName = "dense"
    modules: StoredModules = "blocks+modulation"
    compute: Compute = "dense"
    """`w8a8`: inputs are rounded to 8 bits too, and the forward pass multiplies 8-bit numbers."""

    @property
    def dense(self) -> bool:
        """Whether weights stay as they are."""
        return self.scheme == "dense"

    @property
    def key(self) -> dict[str, JSON]:
        """What decides the numbers, for keys; empty where weights stay as they are."""
        if self.dense:
            return {}
        scheme = SCHEMES[self.scheme]
        own: dict[str, JSON] = {"scheme": self.scheme, "modules": self.modules, "version": STORAGE_VERSION}
        if scheme.library:
            own[scheme.library] = library_version(scheme.library)
        return own if self.compute == "dense" else {**own, "compute": self.compute}

    @property
    def title(self) -> str:
        """What people read, such as `nf4 (blocks+modulation)`; `dense` where weights stay as they are."""
        if self.dense:
            return "dense"
        return f"{self.scheme} ({self.modules}{', 8-bit matmuls' if self.compute == 'w8a8' else ''})"


DENSE = Storage()


@cache
def library_version(name: str) -> str:
    """Return the version of an installed package; `missing` where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
