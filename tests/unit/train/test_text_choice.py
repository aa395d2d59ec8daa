"""Which cached text a batch has: the drawn one, the empty caption, and beside it the class."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.unit.data.helpers import sample
from trainer_core.config.groups import CaptionConfig
from trainer_core.data.captions.caption_variants import chosen_variant, draw_text, is_dropped
from trainer_core.data.epoch.batch_order import BatchOrder, Draw
from trainer_core.stages.caching.caption_entries import live_captions, names_needed
from trainer_core.train.batches import BatchLoader, CachedSamples
from trainer_core.train.caption_choice import TextChoice
from trainer_core.types import CaptionRules, CaptionSource, Sample, TextCondition

SAMPLES = (
    sample("set/a.png", texts=("x", "y", "x", "z")),
    sample("set/b.png"),
    sample("set/c.png", texts=("one", "two"), epoch_groups=2),
)
NAMES = {"set/a.png": ("a1", "a2", "a1", "a3"), "set/c.png": ("c1", "c2")}
KNOWN = ("a1", "a2", "a3", "set/b.png", "c1", "c2", "empty", "class a", "class b", "class c")


def choice(classes: bool = False, **caption: Any) -> TextChoice:
    varied = {one.id: (one, NAMES[one.id]) for one in SAMPLES if one.id in NAMES}
    empty = {one.id: "empty" for one in SAMPLES} if caption else {}
    return TextChoice(
        CaptionConfig.model_validate(caption),
        varied,
        empty,
        {one.id: f"class {one.id[4]}" for one in SAMPLES} if classes else {},
    )


def loader(chosen: TextChoice | None, samples: tuple[Sample, ...] = SAMPLES, seed: int = 3) -> BatchLoader:
    # Text number N is full of N.
    text = {name: TextCondition(torch.full((2, 3), float(number))) for number, name in enumerate(KNOWN)}
    latents = {one.id: torch.zeros(4, 2, 2) for one in samples}
    cache = CachedSamples(latents, text, {one.id: one.geometry for one in samples})
    return BatchLoader(BatchOrder.of(samples, 2, seed), cache, torch.device("cpu"), torch.float32, choice=chosen)


def names(batch_text: TextCondition | None) -> list[str]:
    assert batch_text is not None
    return [KNOWN[int(row[0, 0])] for row in batch_text.embeds]


def epochs(one: BatchLoader, count: int) -> list[tuple[int, str, str]]:
    """Return (epoch, sample id, name of its text) of every draw."""
    batches = one.order.batches_per_epoch
    drawn = [(number // batches, one.batch(number)) for number in range(count * batches)]
    return [pair for epoch, b in drawn for pair in zip([epoch] * 2, b.sample_ids, names(b.text), strict=False)]


def test_a_draw_has_the_text_that_its_numbers_choose() -> None:
    for epoch, name, text in epochs(loader(choice()), 12):
        one = next(one for one in SAMPLES if one.id == name)
        place = chosen_variant(one, 3, epoch, 0)
        assert text == (name if place is None else NAMES[name][place])


@pytest.mark.setting("caption.multiline")
def test_lines_in_turn_follow_the_epoch() -> None:
    turns = [text for _, name, text in epochs(loader(choice()), 6) if name == "set/c.png"]
    assert turns == ["c1", "c2"] * 3


@pytest.mark.setting("caption.dropout", "caption.dropout_every_n_epochs")
def test_dropped_draws_have_the_empty_caption_and_keep_the_others() -> None:
    plain = epochs(loader(choice()), 30)
    half = epochs(loader(choice(dropout=0.5)), 30)
    gone = [is_dropped(CaptionConfig(dropout=0.5), name, 3, epoch, 0) for epoch, name, _ in plain]
    assert [text == "empty" for *_, text in half] == gone
    assert 20 < sum(gone) < 70
    assert all(one == other for one, other, lost in zip(plain, half, gone, strict=True) if not lost)
    second = epochs(loader(choice(dropout_every_n_epochs=2)), 4)
    assert [text == "empty" for *_, text in second] == [epoch % 2 == 1 for epoch, *_ in second]


@pytest.mark.setting("loss.preservation_weight")
def test_each_sample_of_a_batch_brings_its_class_caption() -> None:
    one = loader(choice(classes=True, dropout=1.0))
    for number in range(4):
        batch = one.batch(number)
        assert names(batch.class_text) == [f"class {name[4]}" for name in batch.sample_ids]
        assert set(names(batch.text)) == {"empty"}
    assert loader(choice()).batch(0).class_text is None


def test_without_a_choice_each_sample_has_its_own_text() -> None:
    only = (SAMPLES[1],)
    assert names(loader(None, only).batch(0).text) == ["set/b.png"]


def test_exactly_the_names_that_a_draw_may_take_are_read() -> None:
    assert names_needed(SAMPLES, None, live=False) == [one.id for one in SAMPLES]
    assert set(names_needed(SAMPLES, choice(), live=False)) == {"a1", "a2", "a3", "set/b.png", "c1", "c2"}
    assert set(names_needed(SAMPLES, choice(classes=True, dropout=0.1), live=False)) == set(KNOWN)


def test_live_captions_are_the_draws_own_texts() -> None:
    source = CaptionSource(("a, b, c",), "", CaptionRules(shuffle=True))
    live = (sample("set/a.png", source=source), sample("set/b.png", caption="a dog"))
    half = CaptionConfig(dropout=0.5)
    caption = live_captions(live, half, seed=3)
    draws = [Draw(one.id, epoch, repeat) for one in live for epoch in range(9) for repeat in range(2)]
    found = [caption(draw) for draw in draws]
    assert found == [
        draw_text(one, half, 3, epoch, repeat) for one in live for epoch in range(9) for repeat in range(2)
    ]
    assert {"", "a dog"} < set(found)
    assert len(set(found)) > 4
