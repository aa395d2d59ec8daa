"""Tiny Z-Image."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tiny.pipelines import _seeded, tiny_vae
from tests.tiny.qwen3 import qwen3_tokenizer, tiny_qwen3


def build_z_image(directory: Path) -> Path:
    """Save a tiny Z-Image pipeline; the text encoder's config names the class with a head, as the real one does."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    transformer = _seeded(
        ZImageTransformer2DModel,
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        norm_eps=1e-5,
        qk_norm=True,
        cap_feat_dim=32,
        rope_theta=256.0,
        t_scale=1000.0,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 64, 64],
    )
    # They are zeros in a fresh model, and a pad would be told from a token by nothing.
    generator = torch.Generator().manual_seed(5)
    for token in (transformer.x_pad_token, transformer.cap_pad_token):
        token.data = torch.randn(token.shape, generator=generator) * 0.02
    tokenizer = qwen3_tokenizer()
    pipeline = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=False),
        vae=tiny_vae(16, 0.3611, 0.1159, quant=False),
        text_encoder=tiny_qwen3(tokenizer, 4, causal=False),
        tokenizer=tokenizer,
        transformer=transformer,
    )
    pipeline.save_pretrained(directory)
    config = directory / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": ["Qwen3ForCausalLM"]}))
    return directory
