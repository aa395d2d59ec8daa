"""A small CLIP tokenizer, learned offline from the demo captions.

Byte-level BPE as in CLIP: every byte is a token, so any text can be written; every word that the
captions use is one token; the end-of-text token has the highest id, because SD1.5 text encoders
pool at `argmax(input_ids)`.
"""

from collections import Counter
from collections.abc import Iterable
from random import Random

from transformers import CLIPTokenizer

from demo.captions import caption
from demo.drawings import random_scene

MAX_LENGTH = 32
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
SPARE_WORDS = (
    *("zorbling", "zorblings", "photo", "creature", "animal", "eyes", "legs", "waving", "jumping"),
    *(
        "walking",
        "sitting",
        "standing",
        "sleeping",
        "tilted",
        "medium",
        "the",
        "one",
        "four",
        "and",
    ),
    *("dark", "light", "brown", "colour", "style", "corner", "its", "is", "no"),
)
"""Words no base caption needs. They are single tokens, so that a LoRA can give them meaning."""


def byte_letters() -> list[str]:
    """The 256 printable stand-ins for bytes, in byte order. Source: GPT-2's encoder.py."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in plain else next(spare)) for byte in range(256)]


def caption_words(samples: int = 4000, seed: int = 0) -> list[str]:
    """Every word met in `samples` training captions, and the spare words, sorted."""
    rng = Random(seed)
    captions = (caption(random_scene(rng), rng) for _ in range(samples))
    return sorted({word for text in captions for word in text.replace(",", "").split()})


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Merge the commonest neighbours until each word is one token; ties go to the last by name.

    Source: Sennrich et al., arXiv 1508.07909, algorithm 1, with every word counted once.
    """
    pieces = [[*word[:-1], word[-1] + WORD_END] for word in words]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for p in pieces for pair in zip(p, p[1:], strict=False)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        pieces = [_merged(p, best) for p in pieces]
    return merges


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def build_tokenizer() -> CLIPTokenizer:
    """Make the demo tokenizer; the same vocabulary every time."""
    words = sorted({*caption_words(), *SPARE_WORDS})
    merges = learn_merges(words)
    letters = byte_letters()
    tokens = [*letters, *(letter + WORD_END for letter in letters)]
    tokens += [left + right for left, right in merges]
    vocab = {token: i for i, token in enumerate([*tokens, BOS, EOS])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH, pad_token=EOS, unk_token=EOS)
