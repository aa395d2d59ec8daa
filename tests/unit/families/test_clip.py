from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from tests.tiny.tokenizers import clip_tokenizer
from trainer_core.families.shared import clip

LENGTHS = (0, 3, 74, 75, 76, 149, 150, 151, 224, 225, 300)


def kohyas_pieces(tokenizer: object, caption: str, tokens: int) -> Tensor:
    """Cut as sd-scripts does for `max_token_length`: tokenize to one long row, then take 75 of it at a time."""
    ids = tokenizer(caption, padding="max_length", truncation=True, max_length=tokens + 2).input_ids  # type: ignore[operator]
    start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id  # type: ignore[attr-defined]
    rows: list[list[int]] = []
    for first in range(1, tokens, 75):
        row = [ids[0], *ids[first : first + 75], ids[-1]]
        if pad != end:
            if row[-2] not in (end, pad):
                row[-1] = end
            if row[1] == pad:
                row[1] = end
        rows.append(row)
    assert rows[0][0] == start
    return torch.tensor(rows)


@pytest.mark.setting("text.clip_tokens")
@pytest.mark.parametrize("tokens", [75, 150, 225])
@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
def test_pieces_of_a_caption_are_those_of_kohyas_trainer(tokens: int, pad: str) -> None:
    tokenizer = clip_tokenizer(pad)
    captions = ["".join(chr(ord("a") + place % 26) for place in range(length)) for length in LENGTHS]
    found = clip.piece_ids(tokenizer, captions, tokens, torch.device("cpu")).unflatten(0, (len(captions), -1))
    for caption, pieces in zip(captions, found, strict=True):
        assert torch.equal(pieces, kohyas_pieces(tokenizer, caption, tokens)), len(caption)


def test_joined_states_have_one_start_all_words_and_one_end() -> None:
    states = torch.arange(2 * 3 * 77).reshape(6, 77, 1).float()
    joined = clip.joined(states, 3)
    assert joined.shape == (2, 227, 1)
    # kohya: of the three in a row (231 states), the first, [1:76], [78:153], [155:230], and the last
    row = states.reshape(2, 231, 1)
    wanted = torch.cat([row[:, :1], row[:, 1:76], row[:, 78:153], row[:, 155:230], row[:, -1:]], dim=1)
    assert torch.equal(joined, wanted)
    assert clip.joined(states, 1) is states


def test_a_lora_goes_on_every_linear_layer_of_a_block_with_and_without_the_wrapper() -> None:
    layers = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
    for wrapper in ("", "text_model."):
        assert all(re.fullmatch(clip.LORA, f"{wrapper}encoder.layers.11.{one}") for one in layers)
    for other in ("text_projection", "encoder.layers.0.self_attn", "embeddings.token_embedding", "final_layer_norm"):
        assert not re.fullmatch(clip.LORA, other)
