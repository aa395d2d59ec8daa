"""Qwen2.5-VL as a text encoder: the states of a chat that asks for the picture, without the head of its template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainer_core.lazy import torch

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


def text_states(encoder: Any, tokenizer: Any, chats: Sequence[str], head: int, length: int) -> list[Tensor]:
    """Encode chats without pictures.

    Args:
        encoder: A Qwen2.5-VL.
        tokenizer: Its tokenizer, or its processor.
        chats: Filled templates.
        head: Tokens at the start of the template that are left out of the result.
        length: Most tokens that are kept after the head; what lies behind them is cut.

    Returns:
        The last state, after the final norm, of every token after the head: [L, D] each, without pads.
    """
    tokens = tokenizer(
        text=list(chats), padding=True, truncation=True, max_length=head + length, return_tensors="pt"
    ).to(encoder.device)
    with torch.no_grad():
        states = _last_states(encoder, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    # Pads may stand on either side: the head is counted without them.
    return [row[real.bool()][head:].clone() for row, real in zip(states, tokens["attention_mask"], strict=True)]


def picture_states(encoder: Any, processor: Any, chat: str, pictures: Sequence[Image.Image], head: int) -> Tensor:
    """Encode one chat about pictures: [L, D], as `text_states`, never cut, since the pictures come first.

    All that the processor returns goes to the encoder. Part of it is `mm_token_type_ids`: without them transformers 5
    silently gives the tokens of a picture positions in a line instead of rows and columns.
    """
    inputs = processor(text=[chat], images=list(pictures), padding=True, return_tensors="pt").to(encoder.device)
    with torch.no_grad():
        return _last_states(encoder, **inputs)[0, head:].clone()


def _last_states(encoder: Any, **inputs: Any) -> Tensor:
    # One row of logits: those of all tokens over 152,000 words would be larger than the states of every layer.
    return encoder(**inputs, output_hidden_states=True, use_cache=False, logits_to_keep=1).hidden_states[-1]
