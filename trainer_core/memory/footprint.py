"""What each stage needs under a choice of measures: arithmetic over measured bytes. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from trainer_core.hardware.step_plan import Checkpointing as StepCheckpointing
from trainer_core.hardware.step_plan import StepPlan
from trainer_core.memory.budget import GIB, Budget
from trainer_core.memory.question import Measured, at

Checkpointing = Literal["false", "every_second", "true"]
RING = 2
"""Swapped blocks that lie on the device at once: the one at work and the one that comes next."""
_MASTER = 4
_KERNELS = 0.15
"""GiB of cuBLAS' work space."""
_CONVOLUTIONS = 0.85
"""GiB more of cuDNN's, where there are convolutions: others measured 1 to 2 GiB above the tensors of SDXL."""
_QUANTILES = 2
"""Noise levels of a sample that evaluation measures at once."""
_GUIDED = 2
"""Predictions that a picture with guidance takes at once."""


@dataclass(frozen=True)
class Choices:
    """All that decides how much memory is needed."""

    base: str = "dense"
    base_modules: str = "blocks+modulation"
    gradient_checkpointing: Checkpointing = "false"
    blocks_to_swap: int = 0
    micro_batch: int = 1
    """Samples in one forward pass: the whole batch, or a part."""
    offload_activations: bool = False
    encode_batch: int = 1
    text_batch: int = 1

    def step(self, batch: int) -> StepPlan:
        """Return what of it a training step follows, whose batch is `batch` samples."""
        named: dict[str, StepCheckpointing] = {"false": "off", "true": "all", "every_second": "every_second"}
        return StepPlan(
            named[self.gradient_checkpointing],
            self.micro_batch if self.micro_batch < batch else 0,
            self.blocks_to_swap,
            self.offload_activations,
        )

    @property
    def storage(self) -> str:
        """The base's name in `Measured.weights`."""
        return "dense" if self.base == "dense" else f"{self.base} {self.base_modules}"


@dataclass(frozen=True)
class StagePeak:
    """The most that a stage needs at once, in bytes."""

    name: str
    weights: float = 0
    adapter: float = 0
    gradients: float = 0
    optimizer: float = 0
    activations: float = 0
    workspace: float = 0

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, float]:
        """Component -> bytes."""
        return {
            "weights": self.weights,
            "adapter": self.adapter,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": self.activations,
            "workspace": self.workspace,
        }


@dataclass(frozen=True)
class Work:
    """What is done beside the measured step."""

    batch: int
    """`train.batch_size`."""
    accumulates: bool = False
    """Whether gradients of earlier micro-batches lie there while the next is at work."""
    live_text: bool = False
    """Whether the text encoders stay beside the denoiser."""
    renders: bool = True
    measures: bool = True
    resident_cache: float = 0
    """Bytes of the caches that lie on the device."""


def stage_peaks(measured: Measured, choices: Choices, work: Work, budget: Budget) -> list[StagePeak]:
    """Return the peak of every stage."""
    return list(_stages(measured, choices, work, budget))


def training_peak(measured: Measured, choices: Choices, work: Work, budget: Budget) -> StagePeak:
    """Return the peak of training."""
    needed = at(measured.step[choices.gradient_checkpointing], choices.micro_batch)
    gradients = _MASTER * measured.trained
    if choices.offload_activations and choices.gradient_checkpointing == "true":
        needed = max(needed - at(measured.kept, choices.micro_batch), needed // 4)
    activations = max(needed - gradients, 0)
    if work.accumulates or choices.micro_batch < work.batch:
        activations = needed
    encoders = sum(measured.encoders.values()) if work.live_text else 0
    return StagePeak(
        "train",
        weights=weights(measured, choices) + encoders,
        adapter=_MASTER * measured.trained + measured.averages,
        gradients=gradients,
        optimizer=measured.optimizer,
        activations=activations,
        workspace=_workspace(measured, choices, budget) + work.resident_cache,
    )


def weights(measured: Measured, choices: Choices) -> float:
    """Return the bytes of the denoiser's weights that lie on the device."""
    blocks, swapped = measured.blocks[choices.storage], choices.blocks_to_swap
    whole = measured.weights[choices.storage]
    if not swapped:
        return whole
    # Blocks are taken evenly; those that are equal weigh the same wherever they stand.
    away = sum(sorted(spread(blocks, swapped)))
    return whole - away + RING * max(blocks)


def spread(blocks: Sequence[int], count: int) -> list[int]:
    """Return the sizes of `count` blocks, taken evenly from all."""
    return [blocks[number * len(blocks) // count] for number in range(count)] if count else []


def _stages(measured: Measured, choices: Choices, work: Work, budget: Budget) -> Iterator[StagePeak]:
    context = budget.context
    encode = at(measured.encode, choices.encode_batch)
    space = context + (_KERNELS + _CONVOLUTIONS) * GIB * (budget.kind != "cpu")
    yield StagePeak("encode latents", weights=measured.vae, activations=encode, workspace=space)
    read = at(measured.read, choices.text_batch)
    reading = StagePeak("encode text", sum(measured.encoders.values()), activations=read, workspace=context)
    yield reading
    yield training_peak(measured, choices, work, budget)
    held, adapter = weights(measured, choices), _MASTER * measured.trained
    workspace = _workspace(measured, choices, budget)
    if work.measures:
        forward = at(measured.forward, _QUANTILES)
        yield StagePeak("evaluate", held, adapter, activations=forward, workspace=workspace)
    if work.renders:
        drawing = max(at(measured.forward, _GUIDED), measured.decode)
        yield StagePeak("render samples", held + measured.vae, adapter, activations=drawing, workspace=workspace)


def _workspace(measured: Measured, choices: Choices, budget: Budget) -> float:
    widened = measured.matrix[choices.storage]
    if budget.kind == "cpu":
        return budget.context + widened
    return budget.context + widened + GIB * (_KERNELS + _CONVOLUTIONS * measured.convolutions)
