"""The offline CLIP tokenizer."""

from pathlib import Path
from random import Random

import pytest
from transformers import CLIPTokenizer

from demo.captions import caption
from demo.drawings import random_scene
from demo.tokenizer import MAX_LENGTH, SPARE_WORDS, build_tokenizer, caption_words, learn_merges


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer()


def test_end_of_text_has_the_highest_id(tokenizer: CLIPTokenizer) -> None:
    assert tokenizer.eos_token_id == len(tokenizer) - 1 == max(tokenizer.get_vocab().values())
    assert tokenizer.model_max_length == MAX_LENGTH


def test_every_word_of_the_captions_is_one_token(tokenizer: CLIPTokenizer) -> None:
    words = [*caption_words(samples=500, seed=3), *SPARE_WORDS]
    assert [word for word in words if len(tokenizer.tokenize(word)) != 1] == []


def test_no_caption_is_cut(tokenizer: CLIPTokenizer) -> None:
    rng = Random(1)
    texts = [caption(random_scene(rng), rng) for _ in range(500)]
    assert max(len(ids) for ids in tokenizer(texts).input_ids) <= MAX_LENGTH - 8


def test_any_text_survives_a_save_and_a_round_trip(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    for text in ("two small red crosses on a light blue background", "grüße, 猫 42 zorblings"):
        ids = tokenizer(text).input_ids
        assert loaded(text).input_ids == ids
        back = loaded.decode(ids, skip_special_tokens=True)
        assert back.replace(" ", "") == text.replace(" ", "")


def test_merges_join_each_word_and_only_words() -> None:
    assert learn_merges(["on", "one"]) == [("o", "n</w>"), ("o", "n"), ("on", "e</w>")]
