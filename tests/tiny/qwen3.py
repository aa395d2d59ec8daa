"""Tiny Qwen3 and its tokenizer with the chat template."""

from __future__ import annotations

from typing import Any

from tests.tiny.pipelines import _seeded
from tests.tiny.tokenizers import byte_alphabet

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def qwen3_tokenizer() -> Any:
    """Byte-level BPE without merges; `enable_thinking=False` writes an empty thought, as the real template does."""
    from transformers import Qwen2Tokenizer

    vocabulary = {token: index for index, token in enumerate((*byte_alphabet(), *SPECIAL))}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=[], model_max_length=131072, pad_token="<|endoftext|>", eos_token="<|im_end|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_qwen3(tokenizer: Any, layers: int, causal: bool) -> Any:
    """Return a Qwen3 of width 32: with a head if `causal`."""
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=4096,
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
        tie_word_embeddings=True,
    )
    return _seeded(Qwen3ForCausalLM if causal else Qwen3Model, config=config)
