"""Text encoders that stay on the training device: captions are encoded batch by batch, and encoders may be trained."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import nn

from trainer_core.adapters.adapter import TEXT_ENCODERS
from trainer_core.config.groups import AdapterConfig, AdapterOptionsConfig, OptimizerConfig, TextConfig
from trainer_core.diffusion.noise import derive_seed
from trainer_core.families.family import Family
from trainer_core.train.batches import stack_text
from trainer_core.train.optim.build import TrainedPart
from trainer_core.types import Batch, TextCondition


@dataclass(frozen=True)
class LiveText:
    """The text encoders of a run that encodes its captions itself."""

    family: Family
    encoders: Mapping[str, Any]
    """What `load_text_encoders` gave, the encoders on their device."""
    text: TextConfig
    pictures: Callable[[str], Sequence[Image.Image]] | None = None
    """Sample id -> its control pictures, where the text encoder reads them."""

    def encode(self, samples: Sequence[str], captions: Sequence[str]) -> list[TextCondition]:
        """Encode captions of samples, one unbatched condition each; gradients are kept where an encoder is trained."""
        shown = [] if self.pictures is None else [self.pictures(name) for name in samples]
        return self.family.encode_text(self.encoders, captions, self.text, shown)

    def batch(self, batch: Batch, device: torch.device, dtype: torch.dtype) -> Batch:
        """Return the batch with its captions encoded."""
        rows = self.encode(batch.sample_ids, batch.captions)
        return replace(batch, text=stack_text(rows, device, dtype))


def attach_text_encoders(
    live: LiveText, adapter: AdapterConfig, optimizer: OptimizerConfig, seed: int
) -> tuple[TrainedPart, ...]:
    """Put a LoRA on each of `adapter.text_encoders`, and return them with their rates.

    Args:
        live: the encoders.
        adapter: rank, alpha and dropout, as for the denoiser; the kind is always a plain LoRA.
        optimizer: the rates.
        seed: of the run; each encoder's first weights have a seed of their own.
    """
    parts: list[TrainedPart] = []
    for name, rate in text_encoder_rates(adapter, optimizer).items():
        encoder: Any = live.encoders[name]
        plain = {"type": "lora", "conv_rank": 0, "conv_alpha": 0.0, "train_norm": False}
        own = adapter.model_copy(update={**plain, "targets": _read_modules(live, name)})
        parameters = TEXT_ENCODERS.attach(
            encoder, own, AdapterOptionsConfig(), {}, derive_seed("adapter", (seed, name))
        )
        encoder.train()
        parts.append(TrainedPart(name, encoder, parameters, rate))
    return tuple(parts)


def _read_modules(live: LiveText, name: str) -> str:
    """Return a regex of the modules of a text encoder that get a LoRA: those whose output the family uses."""
    spec, encoder = live.family.spec, live.encoders[name]
    lora = spec.text.lora[name]
    matched = [module for module, _ in encoder.named_modules() if re.fullmatch(lora.targets, module)]
    layers = {module: int(re.findall(r"layers\.(\d+)\.", module)[0]) for module in matched}
    end = max(layers.values()) + 1 - lora.unread - (live.text.clip_skip if spec.text.clip_skip else 0)
    return "|".join(re.escape(module) for module in matched if layers[module] < end)


def text_encoder_rates(adapter: AdapterConfig, optimizer: OptimizerConfig) -> dict[str, float]:
    """Return text encoder -> peak rate: its own, one for all, or else that of the denoiser."""
    names, rates = adapter.text_encoders, optimizer.text_encoder_lr or (optimizer.lr,)
    if len(rates) == 1:
        rates = rates * len(names)
    return dict(zip(names, rates, strict=True))


def set_training(parts: Sequence[TrainedPart], training: bool) -> None:
    """Bring every model that carries an adapter into train or eval mode."""
    for part in parts:
        module: nn.Module = part.module
        module.train(training)
