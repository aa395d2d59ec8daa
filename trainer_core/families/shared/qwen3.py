"""Captions as a chat that Qwen3 reads, for the families that condition on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainer_core.families.shared import text_models

if TYPE_CHECKING:
    from torch import Tensor

BEFORE = "<|im_start|>user\n"
"""What the chat template puts before a caption."""


def chat_states(
    encoder: Any, tokenizer: Any, captions: Sequence[str], length: int, thinking: bool
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Run Qwen3 over captions, each the message of a user whom an assistant is about to answer.

    Args:
        encoder: A Qwen3Model, or a Qwen3ForCausalLM, whose head is not run.
        tokenizer: Its tokenizer, with the chat template; it pads at the end.
        captions: B captions.
        length: Tokens of each, template included; cut or padded.
        thinking: False starts the answer with an empty, closed `<think>` block, as `enable_thinking` does.

    Returns:
        Hidden states [B, length, D], the first those of the embedding, the last normed; and the mask of what is no
        padding, bool [B, length].
    """
    chats = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": caption}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=thinking,
        )
        for caption in captions
    ]
    tokens = tokenizer(chats, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return text_models.language_states(getattr(encoder, "model", encoder), tokens), tokens.attention_mask.bool()
