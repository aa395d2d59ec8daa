"""A tiny Gemma 2 and its tokenizer, for the families that read it."""

from __future__ import annotations

from typing import Any

from tests.tiny.pipelines import _seeded


def gemma_tokenizer() -> Any:
    """BPE of single characters, other bytes by their code; like the real one it adds <bos> and pads on the left."""
    from transformers import GemmaTokenizer

    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    tokens += [chr(code) for code in range(33, 127)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return GemmaTokenizer(vocab=vocabulary, merges=[], model_max_length=8192, padding_side="left", add_bos_token=True)


def tiny_gemma2(tokenizer: Any, hidden: int = 32) -> Any:
    """Return a Gemma 2 without its language-model head."""
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=4096,
        sliding_window=512,
        query_pre_attn_scalar=16,
    )
    return _seeded(Gemma2Model, config=config)
