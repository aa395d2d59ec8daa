"""The most memory that a training step and a forward pass need at once, on fake tensors. Imports torch.

The step is the training loop's own `training_loss`. Of blocks that are all alike a few are enough: the peak is a line
in their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from trainer_core.adapters.adapter import ADAPTERS
from trainer_core.adapters.fast_lora import use_fast_lora
from trainer_core.adapters.lora import leave_inputs_uncast
from trainer_core.diffusion.schedule import NoiseSchedule
from trainer_core.families.family import Family
from trainer_core.hardware.placement import use_attention
from trainer_core.hardware.profiles import Attention
from trainer_core.memory import fakes
from trainer_core.train.objective import training_loss
from trainer_core.types import Batch, Conditioning, Geometry, TextCondition

LEAST = 3
"""Blocks of each group that a shortened model keeps, where it has so many: the peak may lie at either end."""


@dataclass(frozen=True)
class StepSettings:
    """The groups of settings that a step reads."""

    adapter: Any
    adapter_options: Any
    loss: Any
    noise: Any


@dataclass(frozen=True)
class BatchShape:
    """Shapes of a micro-batch."""

    latents: tuple[int, int, int]
    """Channels, height, width."""
    controls: tuple[tuple[int, int, int], ...]
    text: tuple[int, int]
    """Tokens and channels."""
    pooled: int
    """0 for none."""
    uneven: bool
    pixels: tuple[int, int]
    """Height and width of the picture."""


@dataclass(frozen=True)
class StepModel:
    """A denoiser by its config, and what trains it."""

    family: Family
    config: Mapping[str, Any]
    dtype: torch.dtype
    attention: Attention
    settings: StepSettings
    schedule: NoiseSchedule
    shape: BatchShape
    fast_lora: bool = True
    """Whether plain LoRAs are computed as one operation."""


@dataclass(frozen=True)
class Costs:
    """Bytes; each is a line in the number of equal blocks."""

    resident: int
    """Weights, buffers and the adapter."""
    trained: int
    """Trained numbers."""
    peak: int
    """Most bytes at once beside them."""

    def plus(self, other: Costs, times: int) -> Costs:
        """Return the sum with a multiple of another."""
        return Costs(
            self.resident + times * other.resident,
            self.trained + times * other.trained,
            self.peak + times * other.peak,
        )


def training_costs(model: StepModel, batch: int, checkpointing: bool) -> tuple[Costs, int]:
    """Return the costs of a forward and a backward pass, and how much of the peak grows with the number of blocks."""
    return _extrapolated(model, lambda denoiser: _train(model, denoiser, batch, checkpointing))


def forward_costs(model: StepModel, batch: int) -> Costs:
    """Return the costs of a forward pass without gradients."""
    return _extrapolated(model, lambda denoiser: _forward(model, denoiser, batch))[0]


def fake_batch(shape: BatchShape, count: int, dtype: torch.dtype, preserved: bool) -> Batch:
    """Return a micro-batch of zeros, as the loader would give it."""
    latents, text = torch.zeros(count, *shape.latents), _text(shape, count, dtype)
    return Batch(
        sample_ids=("",) * count,
        latents=latents,
        noise=torch.zeros_like(latents),
        u=torch.zeros(count),
        text=text,
        geometries=_geometries(shape, count),
        controls=tuple(torch.zeros(count, *control) for control in shape.controls),
        class_text=_text(shape, count, dtype) if preserved else None,
    )


def trainer_like(model: StepModel, denoiser: nn.Module) -> Any:
    """Return what `training_loss` asks of a trainer."""
    return SimpleNamespace(
        family=model.family,
        schedule=model.schedule,
        denoiser=denoiser,
        project=model.settings,
        live_text=None,
        loader=SimpleNamespace(device=torch.device("cpu"), dtype=model.dtype),
        accelerator=SimpleNamespace(autocast=lambda: _autocast(model.dtype)),
    )


def _extrapolated(model: StepModel, work: Callable[[nn.Module], Costs]) -> tuple[Costs, int]:
    """Do the work with few blocks and with one more of each group, and follow the lines to the whole model."""
    spec = model.family.spec
    members = fakes.groups(_hollow(model), spec.blocks)
    counts = Counter(group for of_list in members.values() for group in of_list)
    few = {group: min(count, LEAST) for group, count in counts.items()}
    whole = base = _short(model, members, few, work)
    grown = 0
    for group, count in counts.items():
        if count > few[group]:
            more = _short(model, members, {**few, group: few[group] + 1}, work)
            slope = more.plus(base, -1)
            whole = whole.plus(slope, count - few[group])
            grown += slope.peak * count
    return whole, grown


def _short(
    model: StepModel,
    members: Mapping[str, Sequence[fakes.Group]],
    wanted: Mapping[fakes.Group, int],
    work: Callable[[nn.Module], Costs],
) -> Costs:
    denoiser = _hollow(model)
    fakes.shorten(denoiser, members, wanted)
    return work(denoiser)


def _hollow(model: StepModel) -> nn.Module:
    spec = model.family.spec
    denoiser = fakes.hollow(spec, spec.denoiser, model.config, model.dtype)
    use_attention(denoiser, model.attention)
    return denoiser


def attach(model: StepModel, denoiser: nn.Module) -> int:
    """Put the adapter on as a run does, and return how many numbers it trains."""
    settings, targets = model.settings, model.family.spec.targets
    adapter = ADAPTERS[settings.adapter.type]
    parameters = adapter.attach(denoiser, settings.adapter, settings.adapter_options, targets, 0, None)
    leave_inputs_uncast(denoiser)
    if model.fast_lora:
        use_fast_lora(denoiser)
    return sum(parameter.numel() for parameter in parameters.values())


def _train(model: StepModel, denoiser: nn.Module, count: int, checkpointing: bool) -> Costs:
    if checkpointing:
        denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
    trained = attach(model, denoiser)
    denoiser.train()

    def step(batch: Batch) -> None:
        training_loss(trainer_like(model, denoiser), batch).backward()

    return _metered(model, denoiser, count, trained, step)


def _forward(model: StepModel, denoiser: nn.Module, count: int) -> Costs:
    trained = attach(model, denoiser)

    def predict(batch: Batch) -> None:
        given = Conditioning(batch.text, batch.geometries, batch.controls, 1.0)
        with torch.no_grad(), _autocast(model.dtype):
            model.family.predict(denoiser, batch.latents.to(model.dtype), torch.zeros(count), given)

    return _metered(model, denoiser, count, trained, predict)


def _metered(model: StepModel, denoiser: nn.Module, count: int, trained: int, work: Callable[[Batch], None]) -> Costs:
    with fakes.fake_mode():
        fakes.fill(denoiser)
        meter = fakes.metered(denoiser, model.shape.text[0])
        resident = meter.now
        batch = fake_batch(model.shape, count, model.dtype, bool(model.settings.loss.preservation_weight))
        for tensor in _tensors(batch):
            meter.track(tensor)
        with meter:
            work(batch)
    return Costs(resident, trained, meter.peak - resident)


def _tensors(batch: Batch) -> Iterator[Tensor]:
    for text in (batch.text, batch.class_text):
        if text is not None:
            yield from (part for part in (text.embeds, text.pooled, text.mask) if part is not None)
    yield from (batch.latents, batch.noise, batch.u, *batch.controls)


def _text(shape: BatchShape, count: int, dtype: torch.dtype) -> TextCondition:
    return TextCondition(
        torch.zeros(count, *shape.text, dtype=dtype),
        torch.zeros(count, shape.pooled, dtype=dtype) if shape.pooled else None,
        torch.ones(count, shape.text[0], dtype=torch.bool) if shape.uneven else None,
    )


def _geometries(shape: BatchShape, count: int) -> tuple[Geometry, ...]:
    return (Geometry(shape.pixels, shape.pixels, (0, 0), shape.pixels),) * count


def _autocast(dtype: torch.dtype) -> AbstractContextManager[Any]:
    return nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype)
