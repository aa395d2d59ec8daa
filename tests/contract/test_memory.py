"""Predicted peaks of training steps against real ones, on every family's tiny model."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from tests.contract.models import MODELS
from tests.contract.support import Tiny
from trainer_core.adapters.adapter import ADAPTERS
from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig, LossConfig, NoiseConfig
from trainer_core.hardware.meter import Meter
from trainer_core.memory import training_step
from trainer_core.memory.encoding import latent_shape
from trainer_core.memory.training_step import BatchShape, StepModel, StepSettings, fake_batch, trainer_like
from trainer_core.train.objective import training_loss

SIDE = 128
CONVOLUTIONS = 0.12
"""Share of a small UNet's peak that the CPU's convolutions take for themselves: work space that is no tensor, which a
plan counts apart."""
WIDER = {"num_layers": 4, "num_single_layers": 8, "num_attention_heads": 16}
DEPTHS = {
    "sd3": {"num_layers": 6, "dual_attention_layers": [0, 1]},
    "z_image": {"n_layers": 6, "n_refiner_layers": 1},
    "lumina2": {"num_layers": 6},
    "kandinsky5": {"num_visual_blocks": 6, "num_text_blocks": 4},
    "qwen_image": {"num_layers": 6},
    "sana": {"num_layers": 6},
    "flux1": {"num_layers": 4, "num_single_layers": 6},
    "flux2": {"num_layers": 4, "num_single_layers": 6},
    "chroma": {"num_layers": 4, "num_single_layers": 6},
}
"""Settings that make a tiny denoiser deeper than what is measured."""


TABLES = dict.fromkeys(("qwen_image", "qwen_image_edit", "qwen_image_edit_single"), 2**18)
"""Bytes of tables of positions in plain attributes, which stay real among fakes: their views count as new storages."""


def step_model(tiny: Tiny, side: int = SIDE, **config: Any) -> StepModel:
    spec, source = tiny.family.spec, tiny.source
    configs = {name: source.config(name) for name, part in spec.components.items() if part.kind == "model"}
    latents = latent_shape(tiny.family, configs[spec.vae], side, side)

    def value(path: str) -> int:
        component, _, key = path.partition(".")
        return int(configs[component][key])

    shape = BatchShape(
        latents=latents,
        controls=(latents,) * tiny.model.controls,
        text=(20 + spec.text.shape.more, value(spec.text.shape.width)),
        pooled=value(spec.text.shape.pooled) if spec.text.shape.pooled else 0,
        uneven=False,
        pixels=(side, side),
    )
    settings = StepSettings(AdapterConfig(rank=4), AdapterOptionsConfig(), LossConfig(), NoiseConfig())
    schedule = tiny.family.noise_schedule(source, settings.noise)
    merged = {**configs[spec.denoiser], **config}
    return StepModel(tiny.family, merged, torch.float32, "sdpa", settings, schedule, shape)


def real_denoiser(model: StepModel, checkpointing: bool) -> Any:
    spec = model.family.spec
    cls = getattr(importlib.import_module("diffusers"), spec.components[spec.denoiser].loader)
    denoiser = cls.from_config(dict(model.config)).requires_grad_(False)
    if checkpointing:
        denoiser.enable_gradient_checkpointing()
    training_step.attach(model, denoiser)
    return denoiser.train()


def real_step(model: StepModel, denoiser: Any, count: int) -> Callable[[], None]:
    batch = fake_batch(model.shape, count, model.dtype, preserved=False)
    return lambda: training_loss(trainer_like(model, denoiser), batch).backward()


def real_peak(model: StepModel, count: int, checkpointing: bool) -> int:
    denoiser = real_denoiser(model, checkpointing)
    meter = knowing(denoiser)
    resident = meter.now
    with meter:
        # The batch is made while the meter counts, so it is counted.
        real_step(model, denoiser, count)()
    return meter.peak - resident


def knowing(denoiser: nn.Module) -> Meter:
    """Return a meter that has counted a model, tables in plain attributes included: these move to the device, too."""
    plain = (one for module in denoiser.modules() for one in vars(module).values() if isinstance(one, torch.Tensor))
    meter = Meter()
    for tensor in (*denoiser.parameters(), *denoiser.buffers(), *plain):
        meter.track(tensor)
    return meter


def allocated_peak(work: Callable[[], None]) -> int:
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


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize(("name", "error", "wider"), [("sd15", CONVOLUTIONS, {}), ("flux1", 0.01, WIDER)])
def test_the_meter_counts_what_the_allocator_gives_out(
    open_family: Callable[[str], Tiny], name: str, error: float, wider: dict[str, int], checkpointing: bool
) -> None:
    # Large enough that the CPU's own small buffers weigh nothing.
    model = step_model(open_family(name), side=256, **wider)
    denoiser = real_denoiser(model, checkpointing)
    real_step(model, denoiser, 2)()  # what is made once, such as tables of positions
    denoiser.zero_grad()
    allocated = allocated_peak(lambda: real_step(model, denoiser, 2)())
    denoiser.zero_grad()
    meter = knowing(denoiser)
    resident = meter.now
    with meter:
        real_step(model, denoiser, 2)()
    assert meter.peak - resident == pytest.approx(allocated, rel=error)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_a_step_without_weights_predicts_the_real_one(tiny: Tiny, checkpointing: bool) -> None:
    model = step_model(tiny)
    predicted, _ = training_step.training_costs(model, 2, checkpointing)
    counted_twice = TABLES.get(tiny.name, 0)
    assert predicted.peak - counted_twice == pytest.approx(real_peak(model, 2, checkpointing), rel=0.05)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("name", sorted(DEPTHS))
def test_a_few_blocks_tell_of_many(
    open_family: Callable[[str], Tiny], monkeypatch: pytest.MonkeyPatch, name: str, checkpointing: bool
) -> None:
    model = step_model(open_family(name), **DEPTHS[name])
    few, _ = training_step.training_costs(model, 1, checkpointing)
    monkeypatch.setattr(training_step, "LEAST", 99)
    whole, _ = training_step.training_costs(model, 1, checkpointing)
    assert (few.resident, few.trained) == (whole.resident, whole.trained)
    assert few.peak == pytest.approx(whole.peak, rel=0.001)


def test_every_family_of_transformers_names_its_blocks(open_family: Callable[[str], Tiny]) -> None:
    for name in MODELS:
        spec = open_family(name).family.spec
        lists = [one for one in spec.blocks if len(getattr(open_family(name).denoiser, one)) > 0]
        assert bool(lists) == (spec.denoiser == "transformer"), name


@pytest.mark.parametrize("kind", sorted(ADAPTERS))
def test_every_kind_of_adapter_is_predicted(open_family: Callable[[str], Tiny], kind: str) -> None:
    model = step_model(open_family("flux1"))
    settings = replace(model.settings, adapter=AdapterConfig(type=kind, rank=4))
    model = replace(model, settings=settings)
    predicted, _ = training_step.training_costs(model, 1, checkpointing=False)
    assert predicted.peak == pytest.approx(real_peak(model, 1, checkpointing=False), rel=0.05)
