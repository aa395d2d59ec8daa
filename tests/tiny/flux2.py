"""Tiny FLUX.2: dev with Mistral and Klein with Qwen3, both with as many layers as their conditions are read from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tiny.pipelines import _seeded
from tests.tiny.qwen3 import qwen3_tokenizer, tiny_qwen3
from tests.tiny.tokenizers import byte_alphabet

MARKS = ("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}[SYSTEM_PROMPT]{% for part in message['content'] %}{{ part['text'] }}"
    "{% endfor %}[/SYSTEM_PROMPT]"
    "{% elif message['role'] == 'user' %}[INST]{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}[IMG]{% endif %}{% endfor %}[/INST]"
    "{% endif %}{% endfor %}"
)


def mistral_tokenizer() -> Any:
    """Byte-level BPE without merges that pads in front, as the real one does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["<unk>", "<s>", "</s>", "<pad>", *MARKS, *byte_alphabet()]
    bpe = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=list(MARKS),
        model_max_length=4096,
        padding_side="left",
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_mistral3(tokenizer: Any, layers: int) -> Any:
    """Return a Mistral3 of width 32 with a tiny vision tower."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    text = {
        "model_type": "mistral",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "sliding_window": None,
        "rms_norm_eps": 1e-5,
    }
    vision = {
        "model_type": "pixtral",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
        "intermediate_size": 32,
        "image_size": 28,
        "patch_size": 14,
        "num_channels": 3,
    }
    config = Mistral3Config(
        text_config=text,
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )
    return _seeded(Mistral3ForConditionalGeneration, config=config)


def _vae() -> Any:
    import torch
    from diffusers import AutoencoderKLFlux2

    vae = _seeded(
        AutoencoderKLFlux2,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=32,
        norm_num_groups=4,
        sample_size=64,
    )
    # Statistics that a trainer would notice to have forgotten.
    generator = torch.Generator().manual_seed(3)
    vae.bn.running_mean.copy_(torch.randn(128, generator=generator) * 0.3)
    vae.bn.running_var.copy_(torch.rand(128, generator=generator) + 0.5)
    return vae


def _shared(guidance_embeds: bool) -> dict[str, Any]:
    """Return VAE, transformer and scheduler."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel

    transformer = _seeded(
        Flux2Transformer2DModel,
        patch_size=1,
        in_channels=128,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=96,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
    return {"vae": _vae(), "transformer": transformer, "scheduler": scheduler}


def build_flux2(directory: Path) -> Path:
    """Save a tiny FLUX.2-dev pipeline; its index names the processor, as the real one does."""
    from diffusers import Flux2Pipeline

    tokenizer = mistral_tokenizer()
    pipeline = Flux2Pipeline(**_shared(True), text_encoder=tiny_mistral3(tokenizer, 32), tokenizer=tokenizer)
    pipeline.save_pretrained(directory)
    index = directory / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"tokenizer": ["transformers", "PixtralProcessor"]}))
    return directory


def build_flux2_klein(directory: Path, is_distilled: bool = False) -> Path:
    """Save a tiny FLUX.2 Klein pipeline."""
    from diffusers import Flux2KleinPipeline

    tokenizer = qwen3_tokenizer()
    encoder = tiny_qwen3(tokenizer, 30, causal=True)
    pipeline = Flux2KleinPipeline(
        **_shared(False), text_encoder=encoder, tokenizer=tokenizer, is_distilled=is_distilled
    )
    pipeline.save_pretrained(directory)
    return directory
