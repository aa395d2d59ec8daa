from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_core.data.epoch.batch_order import BatchOrder, group_of
from trainer_core.data.pictures.buckets import cover_bucket
from trainer_core.types import Bucket, Control, Sample

BUCKETS = (Bucket(64, 64), Bucket(96, 64), Bucket(64, 96))
items = st.lists(
    st.tuples(st.uuids().map(str), st.sampled_from(BUCKETS), st.integers(1, 4)),
    min_size=1,
    max_size=30,
    unique_by=lambda item: item[0],
).map(tuple)


@given(items, st.integers(1, 7), st.integers(0, 2**40), st.integers(0, 3))
def test_each_epoch_sees_each_sample_exactly_as_often_as_it_repeats(
    rows: tuple[tuple[str, Bucket, int], ...], batch_size: int, seed: int, epoch: int
) -> None:
    order = BatchOrder(rows, batch_size, seed)
    first = epoch * order.batches_per_epoch
    draws = [draw for number in range(first, first + order.batches_per_epoch) for draw in order.micro_batch(number)]
    assert Counter(draw.sample_id for draw in draws) == {name: repeats for name, _, repeats in rows}
    assert {draw.epoch for draw in draws} == {epoch}
    assert len(draws) == order.samples_per_epoch


@pytest.mark.setting("train.batch_size")
@given(items, st.integers(1, 7), st.integers(0, 2**40))
def test_a_batch_never_mixes_buckets_nor_exceeds_its_size(
    rows: tuple[tuple[str, Bucket, int], ...], batch_size: int, seed: int
) -> None:
    order = BatchOrder(rows, batch_size, seed)
    bucket_of = {name: bucket for name, bucket, _ in rows}
    for number in range(order.batches_per_epoch):
        batch = order.micro_batch(number)
        assert 1 <= len(batch) <= batch_size
        assert len({bucket_of[draw.sample_id] for draw in batch}) == 1


@given(items, st.integers(0, 2**40), st.integers(0, 200))
def test_any_micro_batch_can_be_computed_from_its_number_alone(
    rows: tuple[tuple[str, Bucket, int], ...], seed: int, number: int
) -> None:
    walked = BatchOrder(rows, 3, seed)
    for earlier in range(number + 1):
        last = walked.micro_batch(earlier)
    assert BatchOrder(tuple(reversed(rows)), 3, seed).micro_batch(number) == last


@pytest.mark.setting("train.seed")
def test_epochs_and_seeds_give_other_orders() -> None:
    rows = tuple((f"{number}.png", BUCKETS[0], 1) for number in range(20))
    order = BatchOrder(rows, 1, 1)
    epochs = [[order.micro_batch(epoch * 20 + n)[0].sample_id for n in range(20)] for epoch in range(3)]
    other = [BatchOrder(rows, 1, 2).micro_batch(n)[0].sample_id for n in range(20)]
    assert len({tuple(epoch) for epoch in [*epochs, other]}) == 4


def paired(number: int, bucket: Bucket, sizes: tuple[tuple[int, int], ...]) -> Sample:
    controls = tuple(Control(Path("c.png"), f"{number}", (9, 9), size) for size in sizes)
    geometry = cover_bucket(bucket.width, bucket.height, bucket)
    return Sample(f"set/{number}.png", Path("a.png"), f"{number}", "", bucket, geometry, 1, "train", controls)


control_sizes = st.lists(st.sampled_from([(32, 48), (48, 32)]), max_size=2).map(tuple)


@given(st.lists(st.tuples(st.sampled_from(BUCKETS), control_sizes), min_size=1, max_size=30), st.integers(1, 7))
def test_a_batch_never_mixes_sizes_or_numbers_of_control_pictures(
    rows: list[tuple[Bucket, tuple[tuple[int, int], ...]]], batch_size: int
) -> None:
    samples = [paired(number, *row) for number, row in enumerate(rows)]
    order = BatchOrder.of(samples, batch_size, seed=1)
    batches = [order.micro_batch(number) for number in range(order.batches_per_epoch)]
    shapes = {sample.id: (sample.bucket, [one.encoded for one in sample.controls]) for sample in samples}
    assert all(shapes[draw.sample_id] == shapes[batch[0].sample_id] for batch in batches for draw in batch)
    assert sorted(draw.sample_id for batch in batches for draw in batch) == sorted(shapes)


@given(items, st.integers(1, 7))
def test_samples_without_control_pictures_come_in_the_order_of_their_buckets_alone(
    rows: tuple[tuple[str, Bucket, int], ...], batch_size: int
) -> None:
    samples = [paired(number, bucket, ()) for number, (_, bucket, _) in enumerate(rows)]
    assert [group_of(sample) for sample in samples] == [sample.bucket for sample in samples]
    by_bucket = BatchOrder(tuple((one.id, one.bucket, 1) for one in samples), batch_size, 5)
    assert BatchOrder.of(samples, batch_size, 5) == by_bucket
