"""Running text encoders: token ids, gradients where one is trained, hidden states of language models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainer_core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def token_ids(tokenizer: Any, captions: Sequence[str], length: int, device: torch.device) -> Tensor:
    """Tokenize to int64 [B, length]: cut, and padded with the tokenizer's own pad token."""
    tokens = tokenizer(list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return tokens.input_ids.to(device)


def gradients_if_trained(model: Any) -> Any:
    """Return a context that records gradients only where the model has something that is trained."""
    trained = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in model.parameters())
    return torch.set_grad_enabled(trained)


def language_states(body: Any, tokens: Any) -> tuple[Tensor, ...]:
    """Return all hidden states of a language model without its head, for `input_ids` and `attention_mask` [B, L]."""
    device = next(body.parameters()).device
    with torch.no_grad():
        return body(
            input_ids=tokens["input_ids"].to(device),
            attention_mask=tokens["attention_mask"].to(device),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
