"""Builder of the tiny Lumina-Image 2.0 pipeline."""

from __future__ import annotations

from pathlib import Path

from tests.tiny.gemma import gemma_tokenizer, tiny_gemma2
from tests.tiny.pipelines import _seeded, tiny_vae


def build_lumina2(directory: Path) -> Path:
    """Save a tiny Lumina-Image 2.0 pipeline."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel

    transformer = _seeded(
        Lumina2Transformer2DModel,
        sample_size=16,
        patch_size=2,
        in_channels=16,
        hidden_size=32,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 6, 6),
        axes_lens=(512, 64, 64),
        cap_feat_dim=32,
    )
    tokenizer = gemma_tokenizer()
    pipeline = Lumina2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=6.0),
        vae=tiny_vae(16, 0.3611, 0.1159, quant=False),
        text_encoder=tiny_gemma2(tokenizer),
        tokenizer=tokenizer,
    )
    # The pipeline turns the side of its own tokenizer.
    pipeline.tokenizer.padding_side = "left"
    pipeline.save_pretrained(directory)
    return directory
