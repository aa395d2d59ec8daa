"""CLIP text encoders: captions of more than 75 tokens, and which modules a LoRA goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainer_core.families.shared import text_models
from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

PIECE = 75
"""Tokens of a caption in one pass; with start and end CLIP reads 77."""
LORA = r"(text_model\.)?encoder\.layers\.\d+\.(self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.(fc1|fc2))"
"""Every linear layer of CLIP's blocks, which are those that kohya's trainer adapts."""


def piece_ids(tokenizer: Any, captions: Sequence[str], tokens: int, device: torch.device) -> Tensor:
    """Cut each caption's tokens into pieces of 75, each between a start and an end token and padded to 77.

    A piece without words is start, end and pads, so that all captions have as many pieces. Source: kohya sd-scripts,
    `max_token_length` (library/strategy_base.py).

    Args:
        tokenizer: CLIP's; the first tokenizer of SDXL pads with the end token, the second with another.
        captions: B captions.
        tokens: most tokens of a caption, a multiple of 75; what is longer is cut.
        device: where the ids go.

    Returns:
        int64 [B * tokens / 75, 77], the pieces of a caption one after another.
    """
    start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    rows: list[list[int]] = []
    for words in tokenizer(list(captions), add_special_tokens=False, verbose=False).input_ids:
        for first in range(0, tokens, PIECE):
            piece = [start, *words[:tokens][first : first + PIECE], end]
            rows.append(piece + [pad] * (PIECE + 2 - len(piece)))
    return torch.tensor(rows, dtype=torch.int64, device=device)


def joined(states: Tensor, pieces: int) -> Tensor:
    """Join the states of each caption's pieces: the first start, 75 states of every piece, the last end.

    Args:
        states: [B * pieces, 77, D].
        pieces: of each caption.

    Returns:
        [B, 75 * pieces + 2, D].
    """
    if pieces == 1:
        return states
    of_caption = states.unflatten(0, (-1, pieces))
    inner = of_caption[:, :, 1:-1].flatten(1, 2)
    return torch.cat([of_caption[:, 0, :1], inner, of_caption[:, -1, -1:]], dim=1)


def first_of(pooled: Tensor, pieces: int) -> Tensor:
    """Return the pooled output [B, P] of each caption's first piece, of [B * pieces, P]."""
    return pooled[::pieces]


def states(encoder: Any, tokenizer: Any, captions: Sequence[str], pieces: int = 1) -> Any:
    """Run a CLIP text encoder without a mask; the output holds `hidden_states` and the pooled output.

    With several `pieces` of 75 tokens a caption has as many rows, one after another (`joined`).
    """
    with text_models.gradients_if_trained(encoder):
        if pieces > 1:
            ids = piece_ids(tokenizer, captions, pieces * PIECE, encoder.device)
        else:
            ids = text_models.token_ids(tokenizer, captions, tokenizer.model_max_length, encoder.device)
        return encoder(ids, output_hidden_states=True)
