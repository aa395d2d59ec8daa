"""Predicted against measured peaks of a training step on this CPU: random weights, medium sizes, no files.

The measured peak is what torch's own allocator gave out (its profiler's memory events) above the weights, in the second
of two steps, when the optimizer's state is there. The prediction is the plan's, without what a machine adds.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks._common import Figure, Goal, Result
from tests.full_size import MODELS
from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig, LossConfig, NoiseConfig, OptimizerConfig
from trainer_core.families.storage.replace import quantise
from trainer_core.families.storage.schemes import Storage
from trainer_core.memory import fakes
from trainer_core.memory.budget import Budget
from trainer_core.memory.footprint import Choices, Work, training_peak
from trainer_core.memory.measure import family_of, measure, step_model
from trainer_core.memory.question import Question
from trainer_core.memory.training_step import StepModel, attach, fake_batch, trainer_like
from trainer_core.train.objective import training_loss
from trainer_core.train.optim.build import TrainedPart, build_optimizer

MEDIUM: Mapping[str, Mapping[str, Any]] = {
    "sd15": {"block_out_channels": [128, 256, 512, 512]},
    "flux1": {"num_layers": 4, "num_single_layers": 8, "num_attention_heads": 4},
    "sd3": {"num_layers": 8, "num_attention_heads": 8, "caption_projection_dim": 512},
    "qwen_image": {"num_layers": 6, "num_attention_heads": 4},
    "z_image": {"n_layers": 6, "dim": 512, "n_heads": 4, "n_kv_heads": 4},
    "lumina2": {"num_layers": 6, "hidden_size": 768, "num_attention_heads": 8, "num_kv_heads": 8},
}
"""What the denoisers have less of than the published ones."""
NOTHING = Budget("this process", "cpu", 1e18, 1e18, 0.0, "cpu_fp32")


@dataclass(frozen=True)
class Point:
    """A step that is predicted and measured."""

    family: str
    batch: int = 1
    checkpointing: str = "false"
    adapter: str = "lora"
    scheme: str = "dense"
    precision: str = "fp32"
    side: int = 256
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def name(self) -> str:
        """What it is, in words."""
        parts = [self.family, f"{self.side} px", f"b{self.batch}", self.precision, self.adapter, self.scheme]
        return ", ".join([*parts, *(["checkpointing"] if self.checkpointing == "true" else [])])


POINTS = (
    *(Point(name, batch, mode) for name in ("sd15", "flux1") for batch in (1, 2, 4) for mode in ("false", "true")),
    *(Point(name, 2, mode) for name in ("sd3", "qwen_image", "z_image", "lumina2") for mode in ("false", "true")),
    *(Point("flux1", 1, "true", adapter=kind) for kind in ("loha", "lokr", "dora")),
    *(Point("flux1", 1, "true", scheme=scheme) for scheme in ("fp8", "int8", "nf4")),
    *(Point("flux1", 2, mode, precision="bf16") for mode in ("false", "true")),
)


def run(quick: bool) -> Result:
    """Predict and measure all points, or every fourth of them."""
    points = POINTS[::4] if quick else POINTS
    figures = [_figure(point) for point in points]
    worst = max(figures, key=lambda figure: abs(figure.value - 1))
    goal = Figure("worst error", abs(worst.value - 1), "", Goal(0.1, "at most"), note=worst.name)
    title = f"Predicted over measured peak of a training step at {len(points)} points, on a CPU"
    return Result("memory_peaks", title, (*figures, goal), {"medium": dict(MEDIUM), "rank": 16, "optimizer": "adamw"})


def _figure(point: Point) -> Figure:
    question = question_of(point)
    found = measure(question)
    choices = Choices(point.scheme, "blocks+modulation", point.checkpointing, micro_batch=point.batch)  # type: ignore[arg-type]
    predicted = training_peak(found, choices, Work(point.batch), NOTHING).total
    real = measured(point, step_model(question, family_of(question)))
    note = f"{predicted / 2**20:.0f} MiB predicted, {real / 2**20:.0f} measured, {found.seconds:.0f} s to predict"
    return Figure(point.name, predicted / real, "", note=note)


def question_of(point: Point) -> Question:
    """Return what is measured without weights."""
    model = MODELS[point.family]
    denoiser = "unet" if "unet" in model.configs else "transformer"
    kept = {name: config for name, config in model.configs.items() if name in (denoiser, "vae", "scheduler")}
    settings = {
        "adapter": AdapterConfig(type=point.adapter, rank=16).model_dump(mode="json", exclude={"init_from"}),
        "adapter_options": AdapterOptionsConfig().model_dump(mode="json"),
        "optimizer": OptimizerConfig().model_dump(mode="json", include={"name"}),
        "loss": LossConfig().model_dump(mode="json"),
        "noise": NoiseConfig().model_dump(mode="json"),
        "train": {"ema_decay": False},
        "hardware": {"lora": "auto"},
    }
    return Question(
        family=point.family,
        pipeline=model.pipeline,
        configs={**kept, denoiser: {**kept[denoiser], **MEDIUM[point.family], **point.config}},
        settings=settings,
        precision=point.precision,
        encode_precision={"latents": "fp32", "text": "fp32"},
        attention="sdpa",
        width=point.side,
        height=point.side,
        batch=point.batch,
        tokens=77 if point.family == "sd15" else 128,
        uneven=False,
    )


def measured(point: Point, model: StepModel) -> float:
    """Return the bytes that two real steps need at once: weights, adapter, optimizer and what the allocator gave."""
    denoiser, parameters = _real(point, model)
    part = TrainedPart("", denoiser, parameters, 1e-4)
    optimizer = build_optimizer((part,), OptimizerConfig(), scaled=False)

    def step() -> None:
        batch = fake_batch(model.shape, point.batch, model.dtype, preserved=False)
        training_loss(trainer_like(model, denoiser), batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    state = sum(
        value.nbytes for one in optimizer.state.values() for value in one.values() if isinstance(value, torch.Tensor)
    )
    return fakes.nbytes(denoiser) + state + allocated(step)


def _real(point: Point, model: StepModel) -> tuple[Any, Mapping[str, Any]]:
    spec = model.family.spec
    cls = getattr(importlib.import_module("diffusers"), spec.components[spec.denoiser].loader)
    denoiser = cls.from_config(dict(model.config)).requires_grad_(False)
    for parameter in denoiser.parameters():
        parameter.data = parameter.data.to(model.dtype)
    if point.scheme != "dense":
        quantise(denoiser, spec.stored_layers, Storage(point.scheme))  # type: ignore[arg-type]
    if point.checkpointing == "true":
        denoiser.enable_gradient_checkpointing()
    attach(model, denoiser)
    return denoiser.train(), {name: one for name, one in denoiser.named_parameters() if one.requires_grad}


def allocated(work: Callable[[], None]) -> int:
    """Return the most bytes that the allocator gave out at once during some work."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    now = peak = 0
    results: Any = recorded.profiler
    for event in sorted(results.kineto_results.events(), key=lambda one: one.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak
