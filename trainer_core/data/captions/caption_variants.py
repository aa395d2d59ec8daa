"""The texts of a caption: which there can be, which are encoded beforehand, and which one a draw takes.

A text is made in this order: a line of the caption file, between prefix and suffix; a choice of each wildcard; tags in
another order, some left out; groups of tags opened; the trigger word in front if it is not in the text. So a trigger
word is never lost, whatever is shuffled or dropped.

Which texts are encoded depends on the caption alone, not on the sample's name or `train.seed`: a renamed picture, a
second run of another seed and another project find them encoded. Which of them a draw takes depends on the seed, the
epoch, the sample and the repeat.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Protocol

from trainer_core.config.groups import CaptionConfig, TagsConfig
from trainer_core.data.captions.caption_file import final_caption
from trainer_core.data.captions.hash_rng import HashRng
from trainer_core.data.captions.tags import Tags, join_tags, split_tags, without_marks
from trainer_core.data.captions.wildcards import choices_in, fill_in, first_choices
from trainer_core.types import CaptionRules, CaptionSource, Sample

_OUTCOMES = 4
"""Ways to draw a text that are listed, in multiples of the texts wanted: several ways may give one text."""
_LIST_LENGTH = 64
"""The longest list of texts in which a text is repeated as often as it is likely, in multiples of the texts wanted."""
_TRIES = 8
"""Draws for each text wanted, where no text should come twice."""


class Dropout(Protocol):
    """The settings of caption dropout, of the group `caption`."""

    @property
    def dropout(self) -> float: ...  # noqa: D102
    @property
    def dropout_every_n_epochs(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class CaptionVariants:
    """The texts that draws of a caption choose from."""

    variants: tuple[str, ...] = ()
    """`Sample.texts`: all as likely as each other, a text in several places if need be; empty if all is one text."""
    epoch_groups: int = 1
    """`Sample.turns`."""


def caption_rules(caption: CaptionConfig, tags: TagsConfig) -> CaptionRules:
    """Return what the settings ask for."""
    return CaptionRules(
        in_turn=caption.multiline == "each",
        wildcards=caption.wildcards,
        shuffle=tags.shuffle,
        dropout=tags.dropout,
        separator=tags.separator,
        keep_tokens=tags.keep_tokens,
        keep_tokens_separator=tags.keep_tokens_separator,
        secondary_separator=tags.secondary_separator,
    )


def plain_text(line: str, trigger_word: str, rules: CaptionRules) -> str:
    """Return the text of a line without anything random: the first choices, all tags in their places, no marks."""
    text = without_marks(first_choices(line) if rules.wildcards else line, rules)
    return final_caption(text.strip(), trigger_word)


def varies(lines: Sequence[str], rules: CaptionRules) -> bool:
    """Say whether the settings let draws of a caption differ from its plain text."""
    return len(lines) > 1 or rules.wildcards or rules.shuffle or rules.dropout > 0


def list_variants(source: CaptionSource, limit: int) -> CaptionVariants:
    """Return the texts of a caption that are encoded: all if there are no more than `limit`, else so many by seed.

    Of more lines than `limit`, so many are taken, chosen by seed and left in their order. Drawn texts differ as long as
    all are equally likely; tags that are left out make some likelier, and those may come several times.
    """
    lines = _some(source.lines, limit)
    turns = len(lines) if source.rules.in_turn else 1
    if (variants := _all_variants(source, lines, limit)) is not None:
        return CaptionVariants() if _one_plain(variants, source) else CaptionVariants(variants, turns)
    each = max(1, limit // len(lines))
    return CaptionVariants(tuple(text for line in lines for text in _drawn(line, source, each)), turns)


def count_possible_texts(source: CaptionSource) -> int:
    """Return how many texts there can be, equal ones of different lines or choices counted twice; at most 10^18."""
    return min(sum(_possible(line, source.rules) for line in source.lines), 10**18)


def chosen_variant(sample: Sample, seed: int, epoch: int, repeat: int) -> int | None:
    """Return the index in `Sample.texts` of a draw, as a pure function; None where there is one text only."""
    if not sample.texts:
        return None
    span = len(sample.texts) // sample.epoch_groups
    return (epoch % sample.epoch_groups) * span + HashRng("text", seed, epoch, sample.id, repeat).randint(span)


def is_dropped(settings: Dropout, sample_id: str, seed: int, epoch: int, repeat: int) -> bool:
    """Say whether a draw trains on the empty caption, as a pure function.

    Epochs count from 0 here: with `dropout_every_n_epochs: 3` the third is dropped, the sixth, and so on.
    """
    every = settings.dropout_every_n_epochs
    if every and (epoch + 1) % every == 0:
        return True
    return bool(settings.dropout) and HashRng("drop", seed, epoch, sample_id, repeat).bernoulli(settings.dropout, 1)[0]


def draw_text(sample: Sample, settings: Dropout, seed: int, epoch: int, repeat: int) -> str:
    """Return the text of a draw where captions are encoded batch by batch, as a pure function: any text there can be.

    Args:
        sample: with `source`, or without one where all draws have `caption`.
        settings: the group `caption`, of which the two settings of caption dropout are read.
        seed: `train.seed`.
        epoch: from 0.
        repeat: of the sample in this epoch, from 0.
    """
    if is_dropped(settings, sample.id, seed, epoch, repeat):
        return ""
    source = sample.source
    if source is None:
        return sample.caption
    dice = HashRng("live text", seed, epoch, sample.id, repeat)
    number = epoch % len(source.lines) if source.rules.in_turn else dice.randint(len(source.lines))
    return _draw(source.lines[number], source, dice)


def _draw(line: str, source: CaptionSource, dice: HashRng) -> str:
    rules = source.rules
    text = fill_in(line, [dice.randint(count) for count in choices_in(line)]) if rules.wildcards else line
    if not rules.shuffle and not rules.dropout:
        return _finished(text, source)
    tags = split_tags(text, rules)
    loose = [tags.loose[index] for index in dice.permutation(len(tags.loose))] if rules.shuffle else list(tags.loose)
    if rules.dropout:
        gone = dice.bernoulli(rules.dropout, len(loose))
        loose = [tag for tag, leaves in zip(loose, gone, strict=True) if not leaves]
    return final_caption(join_tags(tags, loose, rules), source.trigger_word)


def _finished(text: str, source: CaptionSource) -> str:
    """Finish a text whose wildcards are filled in and whose tags stay where they are."""
    return final_caption(without_marks(text, source.rules).strip(), source.trigger_word)


def _drawn(line: str, source: CaptionSource, count: int) -> Iterator[str]:
    """Yield `count` texts of a line by seed; with a larger `count` the first ones are the same."""
    rules = source.rules
    # Every order is as likely as the others: none need come twice.
    even = not rules.dropout and not (rules.wildcards and choices_in(line))
    drawn: set[str] = set()
    spare: list[str] = []
    for number in range(count * _TRIES if even else count):
        text = _draw(line, source, HashRng("caption variant", line, number))
        if even and text in drawn:
            spare.append(text)
            continue
        drawn.add(text)
        yield text
        if len(drawn) == count:
            return
    yield from spare[: count - len(drawn)] if even else ()


def _all_variants(source: CaptionSource, lines: tuple[str, ...], limit: int) -> tuple[str, ...] | None:
    """Return all texts, each in as many places as it is likely; None if they are more than `limit`, or too uneven.

    The places of a line stand together, and all lines have equally many.
    """
    shares: list[dict[str, Fraction]] = []
    for line in lines:
        if (found := _distribution(line, source, limit)) is None:
            return None
        shares.append(found)
    if len({text for share in shares for text in share}) > limit:
        return None
    span = math.lcm(*(part.denominator for share in shares for part in share.values()))
    if span * len(lines) > _LIST_LENGTH * limit:
        return None
    return tuple(text for share in shares for text, part in share.items() for _ in range(int(part * span)))


def _distribution(line: str, source: CaptionSource, limit: int) -> dict[str, Fraction] | None:
    """Return text -> probability, in a fixed order; None if there are too many, or if tags are dropped at random."""
    counts = choices_in(line) if source.rules.wildcards else []
    ways = math.prod(counts)
    left = limit if ways == 1 else _OUTCOMES * limit
    if ways > left:
        return None
    shares: dict[str, Fraction] = {}
    for chosen in product(*(range(count) for count in counts)):
        outcomes = _arrangements(fill_in(line, chosen) if source.rules.wildcards else line, source, left)
        if outcomes is None:
            return None
        left -= len(outcomes)
        for text in outcomes:
            shares[text] = shares.get(text, Fraction()) + Fraction(1, ways * len(outcomes))
    return shares


def _arrangements(text: str, source: CaptionSource, limit: int) -> list[str] | None:
    """Return the distinct texts of a caption without wildcards, all equally likely; None if more than `limit`."""
    rules = source.rules
    if not rules.shuffle and not rules.dropout:
        return [_finished(text, source)]
    tags = split_tags(text, rules)
    if rules.dropout >= 1.0:
        tags = Tags(tags.head, (), tags.tail)
    elif rules.dropout and tags.loose:
        return None
    orders = [tags.loose] if not rules.shuffle else _orders(tags.loose, limit)
    if orders is None:
        return None
    return list(dict.fromkeys(final_caption(join_tags(tags, loose, rules), source.trigger_word) for loose in orders))


def _orders(tags: tuple[str, ...], limit: int) -> list[tuple[str, ...]] | None:
    """Return the distinct orders of tags, sorted; None if there are more than `limit`."""
    counts = Counter(tags)
    if _order_count(counts) > limit:
        return None
    orders: list[tuple[str, ...]] = [()]
    for _ in tags:
        orders = [(*begun, tag) for begun in orders for tag in sorted(counts) if begun.count(tag) < counts[tag]]
    return orders


def _order_count(counts: Counter[str]) -> int:
    return math.factorial(counts.total()) // math.prod(math.factorial(count) for count in counts.values())


def _possible(line: str, rules: CaptionRules) -> int:
    ways = math.prod(choices_in(line)) if rules.wildcards else 1
    if not rules.shuffle and not rules.dropout:
        return ways
    loose = split_tags(first_choices(line) if rules.wildcards else line, rules).loose
    if not rules.dropout:
        return ways * _order_count(Counter(loose))
    if rules.dropout >= 1.0:
        return ways
    count = len(loose)
    kept = sum(math.comb(count, left) * (math.factorial(left) if rules.shuffle else 1) for left in range(count + 1))
    return ways * kept


def _one_plain(variants: tuple[str, ...], source: CaptionSource) -> bool:
    """Say whether there is only one text, which is the sample's caption."""
    return set(variants) == {plain_text(source.lines[0], source.trigger_word, source.rules)}


def _some(lines: tuple[str, ...], limit: int) -> tuple[str, ...]:
    if len(lines) <= limit:
        return lines
    ranked = HashRng("lines", *lines).permutation(len(lines))[:limit]
    return tuple(lines[index] for index in sorted(ranked))
