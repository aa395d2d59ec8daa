"""Texts drawn from captions: kohya's rules by hand, and what must hold for any caption."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.unit.data.helpers import sample
from trainer_core.config.groups import CaptionConfig
from trainer_core.data.captions.caption_variants import (
    CaptionVariants,
    chosen_variant,
    count_possible_texts,
    draw_text,
    is_dropped,
    list_variants,
    plain_text,
)
from trainer_core.types import CaptionRules, CaptionSource

PLAIN = CaptionConfig()
TAG = st.text("abcxyz 1", min_size=1, max_size=6).map(str.strip).filter(bool)
TAGS = st.lists(TAG, max_size=8)
NUMBERS = range(60)


def source(*lines: str, trigger: str = "", **rules: object) -> CaptionSource:
    return CaptionSource(lines, trigger, CaptionRules(**rules))  # type: ignore[arg-type]


def texts(*lines: str, limit: int = 16, trigger: str = "", **rules: object) -> CaptionVariants:
    return list_variants(source(*lines, trigger=trigger, **rules), limit)


def drawn(one: CaptionSource, caption: CaptionConfig = PLAIN, epochs: range = NUMBERS, seed: int = 1) -> list[str]:
    """Draw batch by batch, without a list."""
    live = sample("set/a.png", source=one)
    return [draw_text(live, caption, seed, epoch, 0) for epoch in epochs]


def tags_of(text: str) -> list[str]:
    return [tag for tag in text.split(", ") if tag]


# What kohya's docs/config_README-en.md promises, worked out by hand.


@pytest.mark.setting("tags.keep_tokens_separator", "tags.shuffle")
def test_kohyas_example_of_kept_front_and_end() -> None:
    line = "1girl, hatsune miku, vocaloid ||| stage, microphone, white shirt, smile ||| best quality, rating: general"
    found = texts(line, limit=24, shuffle=True, keep_tokens_separator="|||")
    loose = ("stage", "microphone", "white shirt", "smile")
    assert sorted(found.variants) == sorted(
        ", ".join(("1girl, hatsune miku, vocaloid", *order, "best quality, rating: general"))
        for order in permutations(loose)
    )


@pytest.mark.setting("tags.secondary_separator")
def test_kohyas_example_of_tags_joined_to_one() -> None:
    line = "1girl, hatsune miku, vocaloid, upper body, looking at viewer, sky;;;cloud;;;day, outdoors"
    assert plain_text(line, "", CaptionRules(secondary_separator=";;;")) == line.replace(";;;", ",")
    for text in drawn(source(line, secondary_separator=";;;", shuffle=True, dropout=0.4)):
        assert ("sky,cloud,day" in text) or not any(word in text for word in ("sky", "cloud", "day"))
        assert ";;;" not in text


@pytest.mark.setting("caption.wildcards")
def test_kohyas_examples_of_wildcards_and_doubled_braces() -> None:
    assert texts("1girl, {simple|white} background", wildcards=True) == CaptionVariants(
        ("1girl, simple background", "1girl, white background")
    )
    assert plain_text("vocaloid, {{retro style}}", "", CaptionRules(wildcards=True)) == "vocaloid, {retro style}"


@pytest.mark.setting("caption.multiline")
def test_a_random_line_with_wildcards_is_each_line_as_often() -> None:
    found = texts("{a|b} x", "y", "z", wildcards=True)
    assert found == CaptionVariants(("a x", "b x", "y", "y", "z", "z"))


@pytest.mark.parametrize(
    ("line", "first", "count"),
    [
        ("a {b|c} d", "a b d", 2),
        ("{a|b}{c|d}", "ac", 4),
        ("{|very }old", "old", 2),
        ("{a}", "a", 1),
        ("{}", "{}", 1),
        ("{a|b", "{a|b", 1),
        ("a|b}", "a|b}", 1),
        ("{{a|b}}", "{a|b}", 1),
        ("{a, b|c}", "a, b", 2),
        # As kohya reads it: doubled braces first, from the left.
        ("{{{a|b}}}", "{a", 2),
    ],
)
def test_the_grammar_of_wildcards(line: str, first: str, count: int) -> None:
    rules = CaptionRules(wildcards=True)
    assert plain_text(line, "", rules) == first
    assert count_possible_texts(source(line, wildcards=True)) == count
    assert plain_text(line, "", CaptionRules()) == line


def test_a_choice_that_stands_twice_is_twice_as_likely() -> None:
    assert Counter(texts("{a|a|b} x", wildcards=True).variants) == {"a x": 2, "b x": 1}


# Tags.


@pytest.mark.setting("tags.keep_tokens")
@given(TAGS, st.integers(0, 9), st.booleans(), st.sampled_from([0.0, 0.5, 1.0]))
def test_kept_tags_never_move_and_are_never_dropped(tags: list[str], keep: int, shuffle: bool, dropout: float) -> None:
    one = source(", ".join(tags), shuffle=shuffle, dropout=dropout, keep_tokens=keep)
    for text in drawn(one, epochs=range(8)):
        assert tags_of(text)[: len(tags[:keep])] == tags[:keep]


@pytest.mark.setting("tags.shuffle")
@given(TAGS, st.integers(0, 3))
def test_shuffling_keeps_all_tags_as_often_as_they_were(tags: list[str], keep: int) -> None:
    one = source(", ".join(tags), shuffle=True, keep_tokens=keep)
    every = [*drawn(one, epochs=range(8)), *list_variants(one, 6).variants]
    assert all(Counter(tags_of(text)) == Counter(tags) for text in every)


@pytest.mark.setting("tags.dropout")
@given(TAGS, st.integers(0, 3))
def test_without_shuffling_dropped_tags_leave_the_others_in_order(tags: list[str], keep: int) -> None:
    for text in drawn(source(", ".join(tags), dropout=0.5, keep_tokens=keep), epochs=range(8)):
        left = iter(tags)
        assert all(tag in left for tag in tags_of(text))


@pytest.mark.setting("tags.keep_tokens_separator", "tags.secondary_separator")
@given(TAGS, TAGS, TAGS, st.integers(0, 3), st.booleans(), st.sampled_from([0.0, 0.3, 1.0]))
def test_marks_never_stay_in_a_text(
    head: list[str], loose: list[str], tail: list[str], marks: int, shuffle: bool, dropout: float
) -> None:
    parts = [head, loose, tail, ["more"]][: marks + 1]
    line = " ||| ".join(", ".join(part) for part in parts) + ";;;end"
    rules = CaptionRules(
        shuffle=shuffle, dropout=dropout, keep_tokens_separator="|||", secondary_separator=";;;", keep_tokens=2
    )
    one = CaptionSource((line,), "sks", rules)
    for text in [plain_text(line, "sks", rules), *drawn(one, epochs=range(6)), *list_variants(one, 4).variants]:
        assert "|" not in text
        assert ";" not in text
        if marks:
            assert [tag for tag in tags_of(text) if tag != "sks"][: len(head)] == head or "sks" in head


def test_a_caption_without_the_mark_keeps_by_number() -> None:
    one = source("a, b, c", shuffle=True, keep_tokens=2, keep_tokens_separator="|||")
    assert set(drawn(one)) == {"a, b, c"}


def test_every_order_is_as_likely_as_the_others() -> None:
    counts = Counter(drawn(source("a, b, c", shuffle=True), epochs=range(6000)))
    assert len(counts) == 6
    # 1000 each, give or take six standard deviations.
    assert all(abs(count - 1000) < 6 * (1000 * 5 / 6) ** 0.5 for count in counts.values())


def test_each_tag_is_dropped_with_its_probability() -> None:
    found = drawn(source("a, b, c", dropout=0.3, keep_tokens=1), epochs=range(4000))
    counts = Counter(tag for text in found for tag in tags_of(text))
    assert counts["a"] == 4000
    assert all(abs(counts[tag] - 2800) < 6 * (4000 * 0.21) ** 0.5 for tag in "bc")


@pytest.mark.setting("tags.separator")
def test_tags_are_joined_by_the_separator_that_they_had() -> None:
    assert set(texts("a;b ; c", shuffle=True, separator=";").variants) == {
        "; ".join(order) for order in permutations("abc")
    }
    assert texts("a, b", shuffle=True, separator=";") == CaptionVariants()
    assert set(texts("one two", shuffle=True, separator=" ").variants) == {"one two", "two one"}


def test_empty_tags_vanish_where_tags_are_drawn() -> None:
    assert set(texts("a,, b ,", shuffle=True).variants) == {"a, b", "b, a"}


@pytest.mark.setting("caption.trigger_word")
@given(TAGS, st.sampled_from([0.0, 0.5, 1.0]))
def test_the_trigger_word_is_in_every_text_and_in_front_if_it_was_put_there(tags: list[str], dropout: float) -> None:
    assume("sks" not in tags)
    one = source(", ".join(tags), trigger="sks", shuffle=True, dropout=dropout)
    assert all(text == "sks" or text.startswith("sks, ") for text in drawn(one, epochs=range(8)))
    inside = source(", ".join(["sks", *tags]), trigger="sks", shuffle=True, dropout=dropout)
    assert all(tags_of(text).count("sks") == 1 for text in drawn(inside, epochs=range(8)))


# What is encoded beforehand.


@pytest.mark.setting("caption.variants")
def test_all_texts_are_listed_where_they_are_no_more_than_the_limit() -> None:
    assert len(set(texts("a, b, c, d", shuffle=True, limit=24).variants)) == 24
    assert len(set(texts("a, b, c, d", shuffle=True, limit=23).variants)) == 23


@given(st.lists(st.sampled_from("abcd"), max_size=5), st.integers(1, 3), st.booleans())
def test_as_many_texts_are_possible_as_are_listed_where_all_are(tags: list[str], choices: int, shuffle: bool) -> None:
    line = ", ".join([*tags, "{" + "|".join("xyz"[:choices]) + "}"])
    one = source(line, shuffle=shuffle, wildcards=True)
    count = count_possible_texts(one)
    assert len(set(list_variants(one, count).variants) or {""}) == count
    if count > 1:
        assert len(set(list_variants(one, count - 1).variants)) <= count - 1


def test_tags_that_may_be_dropped_give_every_part_of_them_in_every_order() -> None:
    assert count_possible_texts(source("a, b, c", dropout=0.5)) == 8
    assert count_possible_texts(source("a, b, c", dropout=0.5, shuffle=True)) == 1 + 3 + 6 + 6
    assert count_possible_texts(source("a, b, c", dropout=1.0, shuffle=True)) == 1
    assert set(drawn(source("a, b, c", dropout=0.5, shuffle=True), epochs=range(2000))) == {
        ", ".join(order) for length in range(4) for order in permutations("abc", length)
    }


def test_more_variants_keep_those_that_were_drawn() -> None:
    line = "a, b, c, d, e, f, g"
    for dropout in (0.0, 0.2):
        more, fewer = (texts(line, limit=limit, shuffle=True, dropout=dropout).variants for limit in (20, 10))
        assert more[:10] == fewer


def test_texts_depend_on_the_caption_alone() -> None:
    first, second = (sample(name, source=None, texts=texts("a, b, c, d, e", shuffle=True).variants) for name in "pq")
    assert first.texts == second.texts
    assert first.texts != texts("a, b, c, d, f", shuffle=True).variants


def test_a_caption_with_one_text_that_is_the_caption_needs_no_list() -> None:
    assert texts("a", shuffle=True, wildcards=True, dropout=0.0) == CaptionVariants()
    assert texts("a, b", shuffle=True, keep_tokens=2) == CaptionVariants()
    assert texts("a, b", dropout=1.0, keep_tokens=1) == CaptionVariants(("a",))


@given(st.lists(TAGS.map(", ".join), min_size=1, max_size=4, unique=True), st.integers(1, 9), st.booleans())
def test_every_line_has_as_many_places_and_turns_divide_them(lines: list[str], limit: int, in_turn: bool) -> None:
    found = texts(*lines, limit=limit, shuffle=True, in_turn=in_turn)
    used = min(limit, len(lines))
    assert found.epoch_groups == (used if in_turn else 1)
    assert len(found.variants) % used == 0
    assert len(set(found.variants)) <= max(limit, used)
    assert found == texts(*lines, limit=limit, shuffle=True, in_turn=in_turn)


# Draws.


@pytest.mark.setting("caption.multiline")
def test_lines_in_turn_are_one_an_epoch_and_random_lines_any() -> None:
    lines = ("one", "two", "three")
    listed = texts(*lines, in_turn=True)
    one = sample("set/a.png", texts=listed.variants, epoch_groups=listed.epoch_groups)
    for seed in range(3):
        places = [chosen_variant(one, seed, epoch, repeat) for epoch in range(6) for repeat in range(2)]
        assert [one.texts[place or 0] for place in places] == [line for line in lines * 2 for _ in range(2)]
    assert drawn(source(*lines, in_turn=True), epochs=range(4)) == ["one", "two", "three", "one"]
    assert set(drawn(source(*lines))) == set(lines)
    random = sample("set/a.png", texts=texts(*lines).variants)
    assert {chosen_variant(random, 1, 0, repeat) for repeat in range(40)} == {0, 1, 2}


def test_of_more_lines_than_the_limit_some_are_chosen_in_their_order() -> None:
    lines = tuple(f"line {number}" for number in range(9))
    found = texts(*lines, limit=4, in_turn=True)
    assert found.epoch_groups == 4
    assert list(found.variants) == sorted(found.variants)
    assert set(found.variants) < set(lines)


@pytest.mark.setting("caption.dropout")
def test_captions_are_dropped_with_their_probability_as_a_function_of_the_draw() -> None:
    half = CaptionConfig(dropout=0.25)
    gone = [is_dropped(half, "set/a.png", 1, epoch, 0) for epoch in range(4000)]
    assert abs(sum(gone) - 1000) < 6 * (4000 * 3 / 16) ** 0.5
    assert gone == [is_dropped(half, "set/a.png", 1, epoch, 0) for epoch in range(4000)]
    assert gone != [is_dropped(half, "set/a.png", 2, epoch, 0) for epoch in range(4000)]
    assert gone != [is_dropped(half, "set/b.png", 1, epoch, 0) for epoch in range(4000)]
    assert gone != [is_dropped(half, "set/a.png", 1, epoch, 1) for epoch in range(4000)]
    assert all(is_dropped(CaptionConfig(dropout=1.0), "x", 1, epoch, 0) for epoch in NUMBERS)
    assert not any(is_dropped(PLAIN, "x", 1, epoch, 0) for epoch in NUMBERS)
    one = source("a")
    assert set(drawn(one, half)) == {"", "a"}


@pytest.mark.setting("caption.dropout_every_n_epochs")
def test_every_nth_epoch_is_dropped_whole() -> None:
    third = CaptionConfig(dropout_every_n_epochs=3)
    assert [is_dropped(third, "x", 1, epoch, 0) for epoch in range(7)] == [False, False, True] * 2 + [False]
    assert all(is_dropped(CaptionConfig(dropout_every_n_epochs=1), "x", 1, epoch, 0) for epoch in range(3))
    assert drawn(source("a"), third, range(4)) == ["a", "a", "", "a"]


def test_draws_are_functions_of_seed_epoch_sample_and_repeat() -> None:
    listed = sample("set/a.png", texts=texts("a, b, c, d", shuffle=True, limit=24).variants)
    other = sample("set/b.png", texts=listed.texts)
    first = [chosen_variant(listed, 1, epoch, 0) for epoch in NUMBERS]
    assert first == [chosen_variant(listed, 1, epoch, 0) for epoch in NUMBERS]
    assert first != [chosen_variant(listed, 2, epoch, 0) for epoch in NUMBERS]
    assert first != [chosen_variant(listed, 1, epoch, 1) for epoch in NUMBERS]
    assert first != [chosen_variant(other, 1, epoch, 0) for epoch in NUMBERS]
    assert chosen_variant(sample("set/a.png"), 1, 0, 0) is None
    assert drawn(source("a, b, c, d", shuffle=True)) == drawn(source("a, b, c, d", shuffle=True))


def test_a_sample_whose_captions_do_not_vary_is_drawn_as_it_is() -> None:
    assert draw_text(sample("set/a.png", caption="as {it|is}"), PLAIN, 1, 2, 3) == "as {it|is}"


def test_what_is_drawn_never_changes_between_versions() -> None:
    # Entries are found by their text: other draws would encode every caption anew.
    assert texts("a, b, c, d, e", shuffle=True, limit=3).variants == ("d, e, c, a, b", "e, c, b, d, a", "a, c, d, b, e")
    assert chosen_variant(sample("set/a.png", texts=tuple("abcdefgh")), 42, 3, 1) == 1
