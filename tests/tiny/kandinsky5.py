"""Builder of a tiny Kandinsky 5.0 T2I pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny.pipelines import _seeded, tiny_clip, tiny_vae
from tests.tiny.qwen_vl import qwen_processor, qwen_tokenizer, qwen_vl, save_as_on_the_hub
from tests.tiny.tokenizers import clip_tokenizer


def build_kandinsky5(directory: Path) -> Path:
    """Save a tiny Kandinsky 5.0 T2I pipeline, with the VAE of FLUX.1."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Kandinsky5T2IPipeline

    tokenizer = qwen_tokenizer()
    pipeline = Kandinsky5T2IPipeline(
        transformer=_transformer(),
        vae=tiny_vae(16, 0.3611, 0.1159, quant=False),
        text_encoder=qwen_vl(tokenizer),
        tokenizer=qwen_processor(tokenizer),
        text_encoder_2=tiny_clip(),
        tokenizer_2=clip_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, num_train_timesteps=1000),
    )
    return save_as_on_the_hub(pipeline, directory, "tokenizer")


def _transformer() -> Any:
    """Return a transformer whose modulations are not zero, as a new one's are: all gates would be shut."""
    import torch
    from diffusers import Kandinsky5Transformer3DModel

    transformer = _seeded(
        Kandinsky5Transformer3DModel,
        in_visual_dim=16,
        out_visual_dim=16,
        in_text_dim=32,
        in_text_dim2=32,
        time_dim=32,
        patch_size=(1, 2, 2),
        model_dim=32,
        ff_dim=64,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 6, 6),
        visual_cond=False,
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, module in transformer.named_modules():
            if name.endswith("modulation"):
                module.out_layer.weight.normal_(0, 0.05, generator=generator)
                module.out_layer.bias.normal_(0, 0.1, generator=generator)
    return transformer
