"""Builder of the tiny Chroma pipeline."""

from __future__ import annotations

from pathlib import Path

from tests.tiny.pipelines import _seeded, tiny_t5, tiny_vae
from tests.tiny.tokenizers import t5_tokenizer


def build_chroma(directory: Path) -> Path:
    """Save a tiny Chroma pipeline."""
    from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    transformer = _seeded(
        ChromaTransformer2DModel,
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=16,
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    pipeline = ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0),
        vae=tiny_vae(16, 0.3611, 0.1159, quant=False),
        text_encoder=tiny_t5(),
        tokenizer=t5_tokenizer(),
        transformer=transformer,
    )
    pipeline.save_pretrained(directory)
    return directory
