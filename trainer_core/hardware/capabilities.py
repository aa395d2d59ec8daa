"""What a GPU, its driver and the installed packages can do together: rows of data, each with what it asks for.

Sources: PyTorch 2.13's own checks and release notes, NVIDIA's tables of compute capabilities, the packages' documents.
No row was measured here; docs/hardware.md says what was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Version = tuple[int, ...]


@dataclass(frozen=True)
class Feature:
    """Something that a machine can or cannot do, and what it needs for it."""

    name: str
    title: str
    least: tuple[int, int]
    """Compute capability that it begins with."""
    below: tuple[int, int] = (99, 0)
    """Compute capability that it ends before."""
    cuda: Version = (11,)
    """Oldest CUDA that torch must be built for."""
    driver: Version = ()
    package: str = ""
    """Distribution that must be installed, where torch alone does not do."""
    instead: str = ""
    """What is done without it."""


FEATURES: tuple[Feature, ...] = (
    Feature("bf16", "bfloat16 arithmetic", (8, 0), instead="fp16"),
    Feature("tf32", "TF32 for float32 matrices", (8, 0), instead="plain float32"),
    Feature("int8_matmul", "int8 matrices", (7, 5), instead="bf16 or fp16 matrices"),
    Feature("fp8_matmul", "fp8 matrices, one scale a tensor", (8, 9), cuda=(12, 0), instead="bf16 matrices"),
    Feature("fp8_rowwise", "fp8 matrices, a scale a row", (9, 0), cuda=(12, 4), instead="one scale a tensor, or bf16"),
    Feature("mxfp8", "mxfp8 and nvfp4 matrices", (10, 0), cuda=(12, 8), instead="fp8 or bf16 matrices"),
    Feature("flash_attention", "flash attention of torch", (8, 0), instead="memory-efficient attention of torch"),
    Feature("cudnn_attention", "attention of cuDNN", (8, 0), cuda=(12, 0), instead="flash attention of torch"),
    Feature("flash_attention_2", "flash-attn 2", (8, 0), package="flash-attn", instead="attention of torch"),
    Feature(
        "flash_attention_3",
        "flash-attn 3",
        (9, 0),
        below=(10, 0),
        cuda=(12, 3),
        package="flash-attn-3",
        instead="attention of torch",
    ),
    Feature("compile", "torch.compile", (7, 0), package="triton", instead="eager execution"),
    Feature("nf4", "4-bit bases (bitsandbytes)", (6, 0), package="bitsandbytes", instead="fp8 or int8 rows"),
    Feature("optimizer_8bit", "8-bit optimizers", (6, 0), package="bitsandbytes", instead="32-bit optimizers"),
    Feature("direct_loading", "loading past the CPU", (7, 5), package="fastsafetensors", instead="safetensors"),
)

BUILDS: Mapping[Version, tuple[tuple[int, int], tuple[int, int]]] = {
    (12, 6): ((5, 0), (9, 0)),
    (12, 8): ((7, 5), (12, 0)),
    (12, 9): ((7, 5), (12, 1)),
    (13, 0): ((7, 5), (12, 1)),
    (13, 2): ((7, 5), (12, 1)),
}
"""CUDA of a build of torch 2.13 -> the oldest and newest compute capability that it has code for."""
OLDEST_DRIVERS: Mapping[int, Version] = {11: (450, 80, 2), 12: (525, 60, 13), 13: (580,)}
"""CUDA major version -> oldest Linux driver that runs it. Source: NVIDIA's CUDA Toolkit release notes, table 2."""
_THOR = (11, 0)
"""Only CUDA 13 has code for it."""


@dataclass(frozen=True)
class Platform:
    """A GPU with its driver and what is installed."""

    capability: tuple[int, int]
    driver: Version
    cuda: Version
    """That torch is built for; empty for a build without CUDA."""
    packages: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Answer:
    """Whether a platform has a feature; where it has not, why, and what is done instead."""

    feature: Feature
    reason: str = ""

    @property
    def there(self) -> bool:
        """Whether it can be used."""
        return not self.reason

    def __str__(self) -> str:
        """Render for a terminal."""
        return f"{self.feature.title}: yes" if self.there else f"{self.feature.title}: no, {self.reason}"


def capabilities(platform: Platform) -> tuple[Answer, ...]:
    """Return an answer for each of `FEATURES`, in order."""
    whole = build_problem(platform)
    return tuple(Answer(feature, whole or _problem(feature, platform)) for feature in FEATURES)


def has(platform: Platform, name: str) -> bool:
    """Say whether a platform has the feature called `name`."""
    return next(answer for answer in capabilities(platform) if answer.feature.name == name).there


def build_problem(platform: Platform) -> str:
    """Return why torch cannot use this GPU at all; empty if it can."""
    if not platform.cuda:
        return "torch is built without CUDA"
    needed = OLDEST_DRIVERS.get(platform.cuda[0], ())
    if platform.driver and platform.driver < needed:
        return f"CUDA {shown(platform.cuda)} needs driver {shown(needed)}, this one is {shown(platform.driver)}"
    oldest, newest = BUILDS.get(platform.cuda[:2], ((5, 0), (99, 0)))
    if not oldest <= platform.capability <= newest or (platform.capability == _THOR and platform.cuda < (13,)):
        own = shown(platform.capability)
        return f"torch for CUDA {shown(platform.cuda)} has no code for compute capability {own}"
    return ""


def shown(version: Version) -> str:
    """Return a version as text."""
    return ".".join(map(str, version))


def _problem(feature: Feature, platform: Platform) -> str:
    own = shown(platform.capability)
    if platform.capability < feature.least:
        reason = f"needs compute capability {shown(feature.least)}, this is {own}"
    elif platform.capability >= feature.below:
        reason = f"ends before compute capability {shown(feature.below)}, this is {own}"
    elif platform.cuda < feature.cuda:
        reason = f"needs torch for CUDA {shown(feature.cuda)}, this is for {shown(platform.cuda)}"
    elif platform.driver and platform.driver < feature.driver:
        reason = f"needs driver {shown(feature.driver)}, this is {shown(platform.driver)}"
    elif feature.package and feature.package not in platform.packages:
        reason = f"{feature.package} is not installed"
    else:
        return ""
    return f"{reason}; {feature.instead} instead" if feature.instead else reason
