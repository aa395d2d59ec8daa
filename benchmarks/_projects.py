"""Projects to measure: models with random weights and pictures of noise and shapes, made offline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.tiny.tokenizers import CLIP_EOS, CLIP_VOCABULARY, clip_tokenizer

UNET: dict[str, Any] = {
    "block_out_channels": (64, 128, 256, 256),
    "cross_attention_dim": 768,
    # diffusers' name for the number of heads. Two, not eight: heads stay about as wide as the large model's (32, 40).
    "attention_head_dim": 2,
}
"""Stable Diffusion 1.5's layout at a fifth of its width: 37.5 M parameters."""
VAE: dict[str, Any] = {"block_out_channels": (32, 64, 128, 192), "layers_per_block": 2}
"""Stable Diffusion's layout at a quarter of its width: an encoder of 3.6 M parameters."""


def small_sd15(folder: Path) -> Path:
    """Save an SD1.5 pipeline of 37.5 M + 9 M parameters with random weights; return the folder."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    clip = CLIPTextConfig(
        vocab_size=CLIP_VOCABULARY,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=2,
        num_attention_heads=12,
        max_position_embeddings=77,
        bos_token_id=CLIP_EOS - 1,
        eos_token_id=CLIP_EOS,
        pad_token_id=CLIP_EOS,
    )
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            latent_channels=4,
            norm_num_groups=8,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            sample_size=256,
            **VAE,
        ),
        text_encoder=CLIPTextModel(clip),
        tokenizer=clip_tokenizer(),
        unet=UNet2DConditionModel(sample_size=32, norm_num_groups=8, **UNET),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
        ),
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def write_pictures(folder: Path, count: int, side: int) -> Path:
    """Write `count` square JPEGs with a caption each; every one differs."""
    import numpy
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    random = numpy.random.default_rng(0)
    for number in range(count):
        # Enlarged noise: as hard to decode as a photograph, and no two alike.
        coarse = Image.fromarray(random.integers(0, 255, (side // 8, side // 8, 3), dtype=numpy.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number:06d}.jpg", quality=90)
        (folder / f"{number:06d}.txt").write_text(f"picture number {number}")
    return folder


def write_project(folder: Path, settings: Mapping[str, Any]) -> Path:
    """Write `project.yaml` (JSON is YAML) for the model in `model` and the pictures in `data`; return its path."""
    document = {
        "name": "bench",
        "model": {"family": "sd15", "path": "model"},
        "datasets": [{"path": "data", "held_out": 0.0}],
        **settings,
    }
    path = folder / "project.yaml"
    path.write_text(json.dumps(document, indent=1))
    return path
