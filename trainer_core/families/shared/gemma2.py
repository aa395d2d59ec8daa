"""Captions through Gemma 2, for the families that read it: right-padded, masked, and returned without their pads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainer_core.lazy import torch
from trainer_core.types import TextCondition

if TYPE_CHECKING:
    from torch import Tensor


def states(encoder: Any, tokenizer: Any, texts: Sequence[str], length: int, layer: int) -> tuple[Tensor, Tensor]:
    """Return the states [B, length, D] after `layer` (-1: the last one, normed) and the mask bool [B, length].

    The padding side is said at every call: Gemma's tokenizers are saved with pads on the left.
    """
    tokens = tokenizer(
        list(texts),
        padding="max_length",
        padding_side="right",
        max_length=length,
        truncation=True,
        return_tensors="pt",
    ).to(encoder.device)
    with torch.no_grad():
        output = encoder(tokens.input_ids, attention_mask=tokens.attention_mask, output_hidden_states=True)
    return output.hidden_states[layer], tokens.attention_mask.bool()


def unpadded(states_BLD: Tensor, mask_BL: Tensor) -> list[TextCondition]:
    """Return a condition [tokens, D] for each caption, with the masked rows alone, in memory of its own."""
    return [TextCondition(rows[mask]) for rows, mask in zip(states_BLD, mask_BL, strict=True)]
