"""Measure what a base with an adapter needs: `python -m trainer_core.memory.measure < question.json`. Imports torch."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig, LossConfig, NoiseConfig, OptimizerConfig
from trainer_core.families import get_family, with_spec
from trainer_core.families.family import Family
from trainer_core.hardware.placement import torch_dtype
from trainer_core.memory import encoding, fakes
from trainer_core.memory.question import Measured, Question
from trainer_core.memory.stored_weights import storages, stored
from trainer_core.memory.training_step import BatchShape, StepModel, StepSettings, forward_costs, training_costs
from trainer_core.train.optim.build import TrainedPart, build_optimizer

MASTER = 4
"""Bytes of a trained number: adapters are float32."""


def measure(question: Question) -> Measured:
    """Return the bytes of everything that the question is about."""
    began = time.perf_counter()
    family = family_of(question)
    model = step_model(question, family)
    spec, settings = family.spec, question.settings
    denoiser = fakes.hollow(spec, spec.denoiser, model.config, model.dtype)
    held = {name: stored(denoiser, spec, storage) for name, storage in storages()}
    step, kept, trained = _steps(question, model)
    forward = {batch: forward_costs(model, batch).peak for batch in {1, 2}}
    return Measured(
        weights={name: one.weights for name, one in held.items()},
        blocks={name: one.blocks for name, one in held.items()},
        matrix={name: one.matrix for name, one in held.items()},
        trained=trained,
        optimizer=round(trained * state_bytes(OptimizerConfig(**settings["optimizer"]))),
        averages=MASTER * trained if settings["train"]["ema_decay"] else 0,
        step=step,
        kept=kept,
        forward=forward,
        convolutions=any(isinstance(module, nn.Conv2d) for module in denoiser.modules()) and not spec.blocks,
        **_encoding(question, family, model.shape.latents),
        seconds=time.perf_counter() - began,
    )


def family_of(question: Question) -> Family:
    """Return the family, of the variant that the base is."""
    family = get_family(question.family)
    specs = (family.spec, *family.spec.variants)
    return with_spec(family, next(spec for spec in specs if spec.pipeline == question.pipeline))


def state_bytes(config: OptimizerConfig) -> float:
    """Return the bytes of optimizer state for a trained number, by a step of the optimizer itself."""
    torch.manual_seed(0)
    # 8-bit optimizers keep small tensors in 32 bits: this is a usual matrix of an adapter.
    weight = nn.Parameter(torch.zeros(16, 3072))
    part = TrainedPart("", nn.Identity(), {"lora_A.weight": weight}, config.lr)
    optimizer = build_optimizer((part,), config.model_copy(update={"lora_plus_ratio": 1.0}), scaled=False)
    weight.grad = torch.full_like(weight, 1e-3)
    optimizer.step()
    tensors = [value for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / weight.numel()


def _steps(question: Question, model: StepModel) -> tuple[dict[str, dict[int, int]], dict[int, int], int]:
    """Return the peaks by gradient checkpointing and batch, what checkpointed blocks keep, and the trained numbers."""
    step: dict[str, dict[int, int]] = {"false": {}, "every_second": {}, "true": {}}
    kept, trained = dict[int, int](), 0
    for batch in {1, question.batch}:
        plain, _ = training_costs(model, batch, checkpointing=False)
        saving, kept[batch] = training_costs(model, batch, checkpointing=True)
        step["false"][batch], step["true"][batch] = plain.peak, saving.peak
        # Half of the blocks keep their activations: the peak is a line in their number.
        step["every_second"][batch] = (plain.peak + saving.peak) // 2
        trained = plain.trained
    return step, kept, trained


def step_model(question: Question, family: Family) -> StepModel:
    """Return the denoiser with what trains it."""
    spec, configs, settings = family.spec, question.configs, question.settings
    latents = encoding.latent_shape(family, configs[spec.vae], question.width, question.height)
    controls = tuple(encoding.latent_shape(family, configs[spec.vae], *size) for size in question.controls)
    text = spec.text.shape
    noise = NoiseConfig(**settings["noise"])
    return StepModel(
        family=family,
        config=configs[spec.denoiser],
        dtype=torch_dtype(question.precision),  # type: ignore[arg-type]
        attention=question.attention,  # type: ignore[arg-type]
        settings=StepSettings(
            AdapterConfig(**settings["adapter"]),
            AdapterOptionsConfig(**settings["adapter_options"]),
            LossConfig(**settings["loss"]),
            noise,
        ),
        schedule=family.noise_schedule(_Configs(configs), noise),  # type: ignore[arg-type]
        shape=BatchShape(
            latents=latents,
            controls=controls,
            text=(question.tokens + text.more, _value(configs, text.width)),
            pooled=_value(configs, text.pooled) if text.pooled else 0,
            uneven=question.uneven,
            pixels=(question.height, question.width),
        ),
        fast_lora=settings["hardware"]["lora"] == "auto",
    )


def _encoding(question: Question, family: Family, latents: tuple[int, int, int]) -> dict[str, Any]:
    configs, size = question.configs, (question.width, question.height)
    vae, dtype = configs[family.spec.vae], torch_dtype(question.encode_precision["latents"])  # type: ignore[arg-type]
    text_dtype = torch_dtype(question.encode_precision["text"])  # type: ignore[arg-type]
    encoders = encoding.encoders(family, configs, text_dtype)
    peaks = [
        encoding.reading_peak(configs[name], question.tokens + 256 * len(question.controls), 1, text_dtype.itemsize)
        for name in encoders
    ]
    return {
        "vae": encoding.vae_weights(family, vae, dtype),
        "encode": {count: encoding.encode_peak(family, vae, dtype, size, count) for count in (1, 2)},
        "decode": encoding.decode_peak(family, vae, dtype, latents),
        "encoders": encoders,
        "read": {1: max(peaks, default=0)},
    }


class _Configs:
    """Answers as a base model does that has nothing but its configs."""

    def __init__(self, configs: Mapping[str, Any]) -> None:
        self.configs = configs

    def config(self, component: str) -> dict[str, Any]:
        return dict(self.configs[component])


def _value(configs: Mapping[str, Any], path: str) -> int:
    component, _, key = path.partition(".")
    return int(configs[component][key])


if __name__ == "__main__":
    print(json.dumps(measure(Question.from_dict(json.load(sys.stdin))).as_dict()))
