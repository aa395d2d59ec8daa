"""Captions longer than CLIP's window, and where each family's text encoder stops reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.contract.models import MODELS
from tests.contract.support import Tiny, rows
from trainer_core.config.groups import TextConfig
from trainer_core.families import get_family
from trainer_core.stages.preflight.truncation import own_tokens, text_length

LONG = ("sd15", "sdxl")
LIMITED = sorted(name for name, model in MODELS.items() if get_family(model.family).spec.text.limits)
"""Models whose text encoder stops reading somewhere."""


def words(count: int) -> str:
    """Return words of one letter, which CLIP's tokenizer makes one token each."""
    return " ".join("abcdefghijklmnopqrstuvwxyz"[place % 26] for place in range(count))


@pytest.mark.setting("text.clip_tokens")
@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("tokens", [75, 150, 225])
def test_words_count_as_far_as_the_pieces_reach_and_no_further(
    open_family: Callable[[str], Tiny], name: str, tokens: int
) -> None:
    tiny = open_family(name)
    read = words(tokens - 1)
    same, longer, other = rows(tiny, (f"{read} a", f"{read} a b c", f"{read} b"), clip_tokens=tokens)
    assert same.embeds.shape[0] == tokens + 2
    assert torch.equal(same.embeds, longer.embeds)
    assert not torch.equal(same.embeds, other.embeds)


@pytest.mark.setting("text.clip_tokens")
@pytest.mark.parametrize("name", LONG)
def test_the_first_piece_of_a_long_caption_is_what_a_short_window_reads(
    open_family: Callable[[str], Tiny], name: str
) -> None:
    tiny = open_family(name)
    caption = words(140)
    (short,), (long,) = rows(tiny, (caption,)), rows(tiny, (caption,), clip_tokens=150)
    torch.testing.assert_close(long.embeds[:76], short.embeds[:76], atol=1e-6, rtol=1e-5)
    if short.pooled is not None and long.pooled is not None:
        torch.testing.assert_close(long.pooled, short.pooled, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("tiny", sorted(set(MODELS) - set(LIMITED)), indirect=True)
def test_a_family_without_a_limit_reads_a_long_caption_to_its_end(tiny: Tiny) -> None:
    caption = words(1100)
    first, second = rows(tiny, (f"{caption} a", f"{caption} b"))
    assert not torch.allclose(first.embeds, second.embeds, atol=1e-6)


@pytest.mark.setting("text.max_length")
@pytest.mark.parametrize("tiny", LIMITED, indirect=True)
def test_a_familys_limit_is_where_its_encoder_stops_reading(tiny: Tiny) -> None:
    spec = tiny.family.spec
    (limit,) = spec.text.limits
    settings: dict[str, Any] = {"max_length": 128} if spec.text.choosable_length else {}
    text, tokenizer = TextConfig(**settings), tiny.encoders[limit.tokenizer]
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    most = text.clip_tokens if spec.text.long_captions else own_tokens(tokenizer, limit, text_length(spec, text))
    caption = words(4 * most)
    spans = tokenizer(caption, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    end, last = spans[most - 1][1], max(start for start, _ in spans[:most] if caption[start] != " ")
    read, longer = caption[:end], caption[: end + 80]
    other = f"{longer[:last]}Q{longer[last + 1 :]}"
    first, second, third = (rows(tiny, (one,), **settings)[0].embeds for one in (read, longer, other))
    # of a chat, its end is cut with what follows the caption, so only what both have is compared
    kept = min(most, len(first)) if len(first) != len(second) or spec.text.limits[0].before else len(first)
    assert torch.allclose(first[:kept], second[:kept], atol=1e-6)
    assert second.shape == third.shape
    assert not torch.allclose(second, third, atol=1e-6)
