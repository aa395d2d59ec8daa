"""Kandinsky 5.0 T2I."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tests.contract.models.base import Controls, Model
from tests.tiny.kandinsky5 import build_kandinsky5
from tests.tiny.qwen_vl import load_with_processor
from trainer_core.types import Conditioning, TextCondition


def text(pipe: Any, captions: Sequence[str], controls: Controls) -> list[TextCondition]:
    """One by one: the pipeline's own batches hold pads, which its denoiser reads."""
    alone = [pipe.encode_prompt([caption]) for caption in captions]
    return [TextCondition(embeds[0], pooled[0]) for embeds, pooled, _ in alone]


def latents(pipe: Any, images: Tensor) -> Tensor:
    """Without the shift that the VAE's config names: the pipeline divides by the scale alone."""
    return pipe.vae.encode(images).latent_dist.mode() * pipe.vae.config.scaling_factor


def predict(pipe: Any, noisy: Tensor, timesteps: Tensor, text: TextCondition, given: Conditioning) -> Tensor:
    output = pipe.transformer(
        hidden_states=noisy.permute(0, 2, 3, 1).unsqueeze(1),
        encoder_hidden_states=text.embeds,
        pooled_projections=text.pooled,
        timestep=timesteps * pipe.scheduler.config.num_train_timesteps,
        visual_rope_pos=[torch.arange(1), torch.arange(noisy.shape[2] // 2), torch.arange(noisy.shape[3] // 2)],
        text_rope_pos=torch.arange(text.embeds.shape[1]),
        scale_factor=[1.0, 1.0, 1.0],
    ).sample
    return unpack(pipe, output)


def unpack(pipe: Any, tensor: Tensor) -> Tensor:
    return tensor.squeeze(1).permute(0, 3, 1, 2)


MODEL = Model(
    "kandinsky5",
    build_kandinsky5,
    text,
    predict,
    pipeline=partial(load_with_processor, processor="tokenizer"),
    latents=latents,
    unpack=unpack,
    # Guided, the pipeline would run its denoiser twice a step.
    call={"guidance_scale": 1.0},
    captions=1,
)
