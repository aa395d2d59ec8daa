"""Tokenizers of one token a byte, made without a download."""

from __future__ import annotations

from typing import Any

CLIP_BOS, CLIP_EOS, CLIP_VOCABULARY = 512, 513, 514
T5_VOCABULARY = 192


def byte_alphabet() -> list[str]:
    """Return the printable character that byte-level BPE uses for each of the 256 bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def clip_tokenizer(pad_token: str = "<|endoftext|>") -> Any:
    """Byte-level BPE without merges; the end token has the highest id, where CLIP models with `eos_token_id=2` pool."""
    from transformers import CLIPTokenizer

    alphabet = byte_alphabet()
    tokens = [*alphabet, *(f"{char}</w>" for char in alphabet), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77, pad_token=pad_token)


def t5_tokenizer() -> Any:
    """Unigram tokenizer of single ASCII characters, with and without the mark of a word's start."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    for code in range(33, 127):
        pieces += [(chr(code), -3.0), ("▁" + chr(code), -3.5)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, additional_special_tokens=None, model_max_length=512)
