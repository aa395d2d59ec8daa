"""Captions through T5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainer_core.families.shared import text_models
from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def states(encoder: Any, tokenizer: Any, captions: Sequence[str], length: int) -> Tensor:
    """Run a T5 encoder over `length` tokens [B, length, D]; pads take part, as they did when the base was trained."""
    with torch.no_grad():
        return encoder(text_models.token_ids(tokenizer, captions, length, encoder.device))[0]
