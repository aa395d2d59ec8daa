"""The length of a run, held against cases worked out by hand and against the rules of other trainers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_core.config.groups import DatasetConfig, HardwareConfig, ModelConfig, TrainConfig
from trainer_core.config.project import Project
from trainer_core.data.epoch.batch_order import BatchOrder
from trainer_core.data.epoch.run_length import KEYS, RunLength, run_length
from trainer_core.types import Bucket, Geometry, Sample

SQUARE, WIDE, TALL = Bucket(512, 512), Bucket(768, 512), Bucket(512, 768)
SHAPE = Geometry((512, 512), (512, 512), (0, 0), (512, 512))


def sample(name: str, bucket: Bucket = SQUARE, repeats: int = 1, split: str = "train") -> Sample:
    return Sample(name, Path(name), "0" * 64, "", bucket, SHAPE, repeats, split)  # type: ignore[arg-type]


def pictures(*groups: tuple[str, int, int, Bucket]) -> list[Sample]:
    """(dataset, pictures, repeats, bucket) each."""
    return [
        sample(f"{name}/{bucket}-{number}.png", bucket, repeats)
        for name, count, repeats, bucket in groups
        for number in range(count)
    ]


def project(train: TrainConfig, processes: int = 1, **groups: object) -> Project:
    return Project(
        name="cat",
        model=ModelConfig(family="sd15", path=Path("/base")),
        datasets=(DatasetConfig(path=Path("/data/cats")),),
        train=train,
        hardware=HardwareConfig(num_processes=processes),
        **groups,  # type: ignore[arg-type]
    )


def length(samples: Sequence[Sample], processes: int = 1, **train: object) -> RunLength:
    return run_length(TrainConfig(**train), processes, samples)  # type: ignore[arg-type]


# (groups, batch, accumulation, processes, epochs) -> (draws, micro-batches, steps), by hand.
BY_HAND = [
    # 20 pictures x 10 repeats / batch 2 = 100 steps an epoch, 10 epochs.
    ([("a", 20, 10, SQUARE)], 2, 1, 1, 10, (200, 100, 1000)),
    # 7 and 5 pictures in two buckets of batch 4: 2 + 2 micro-batches, where 12 / 4 would be 3.
    ([("a", 7, 1, SQUARE), ("a", 5, 1, WIDE)], 4, 1, 1, 1, (12, 4, 4)),
    # Two datasets of 10 x 5 and 30 x 1 in one bucket: 80 draws, 20 micro-batches, 2 accumulated: 10 steps an epoch.
    ([("a", 10, 5, SQUARE), ("b", 30, 1, SQUARE)], 4, 2, 1, 3, (80, 20, 30)),
    # 10 micro-batches, 4 accumulated: 2.5 steps an epoch; one epoch takes 3, two take 5.
    ([("a", 10, 1, SQUARE)], 1, 4, 1, 1, (10, 10, 3)),
    ([("a", 10, 1, SQUARE)], 1, 4, 1, 2, (10, 10, 5)),
    # 90 micro-batches over 4 processes: 22.5 steps an epoch.
    ([("a", 90, 1, SQUARE)], 1, 1, 4, 1, (90, 90, 23)),
    # Half an epoch of 15 micro-batches.
    ([("a", 15, 1, SQUARE)], 1, 1, 1, 0.5, (15, 15, 8)),
    # 0.07 x 100 is 7.000000000000001 in floating point, and is 7 steps.
    ([("a", 100, 1, SQUARE)], 1, 1, 1, 0.07, (100, 100, 7)),
]


@pytest.mark.setting("train.epochs", "train.batch_size", "train.gradient_accumulation_steps", "hardware.num_processes")
@pytest.mark.parametrize(("groups", "batch", "accumulation", "processes", "epochs", "expected"), BY_HAND)
def test_epochs_come_to_the_steps_worked_out_by_hand(groups, batch, accumulation, processes, epochs, expected) -> None:
    found = length(
        pictures(*groups), processes, epochs=epochs, batch_size=batch, gradient_accumulation_steps=accumulation
    )
    assert (found.samples_per_epoch, found.batches, found.steps) == expected


@pytest.mark.setting("train.steps", "train.epochs")
def test_steps_are_taken_as_given_and_without_either_they_are_1500() -> None:
    samples = pictures(("a", 10, 1, SQUARE))
    assert (length(samples, steps=77).steps, length(samples).steps) == (77, 1500)
    assert length(samples, steps=77).epochs == pytest.approx(7.7)


def kohya_steps(buckets: Sequence[int], batch: int, accumulation: int, processes: int, epochs: int) -> int:
    """kohya's rule (train_network.py): whole steps in each epoch, from batches rounded up by bucket."""
    batches = sum(math.ceil(bucket / batch) for bucket in buckets)
    return epochs * math.ceil(batches / processes / accumulation)


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=3),
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 5),
)
def test_a_run_is_as_long_as_kohyas_where_steps_fill_epochs_and_never_longer(
    buckets: list[tuple[int, int]], batch: int, accumulation: int, processes: int, epochs: int
) -> None:
    groups = [("a", count, repeats, bucket) for (count, repeats), bucket in zip(buckets, (SQUARE, WIDE, TALL))]  # noqa: B905
    found = length(
        pictures(*groups), processes, epochs=epochs, batch_size=batch, gradient_accumulation_steps=accumulation
    )
    kohya = kohya_steps([count * repeats for count, repeats in buckets], batch, accumulation, processes, epochs)
    assert found.steps <= kohya <= found.steps + epochs
    if found.batches % (accumulation * processes) == 0:
        assert found.steps == kohya


def test_simpletuners_repeats_count_from_0() -> None:
    # Its `repeats: 4` sees a picture five times in an epoch: 10 pictures, batch 5, 10 steps.
    simpletuner = 4
    assert length(pictures(("a", 10, simpletuner + 1, SQUARE)), epochs=1, batch_size=5).steps == 10


SIZES = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.sampled_from([SQUARE, WIDE, TALL]), st.integers(1, 5)),
    min_size=1,
    max_size=25,
)


@given(SIZES, st.integers(1, 7))
def test_the_batches_that_are_counted_are_those_that_are_trained(
    drawn: list[tuple[str, Bucket, int]], batch: int
) -> None:
    samples = [sample(f"{name}/{number}.png", bucket, rep) for number, (name, bucket, rep) in enumerate(drawn)]
    samples.append(sample("a/held.png", split="held_out"))
    found = length(samples, epochs=1, batch_size=batch)
    order = BatchOrder.of(samples, batch, 42)
    epoch = [order.micro_batch(number) for number in range(found.batches)]
    assert found.batches == order.batches_per_epoch
    assert sum(len(one) for one in epoch) == found.samples_per_epoch == sum(rep for _, _, rep in drawn)
    assert all(draw.epoch == 0 for one in epoch for draw in one)
    assert order.micro_batch(found.batches)[0].epoch == 1
    assert found.ideal_steps_per_epoch <= found.steps_per_epoch
    assert sum(one.samples_per_epoch for one in found.datasets) == found.samples_per_epoch
    assert sum(one.share for one in found.datasets) == pytest.approx(1)


def test_each_dataset_has_its_share_of_an_epoch() -> None:
    found = length(pictures(("a", 10, 5, SQUARE), ("b", 30, 1, SQUARE)))
    assert [one.as_dict() for one in found.datasets] == [
        {"name": "a", "images": 10, "repeats": 5, "draws": 50, "share": 0.625},
        {"name": "b", "images": 30, "repeats": 1, "draws": 30, "share": 0.375},
    ]


def test_the_json_form_has_the_keys_that_programs_rely_on() -> None:
    assert KEYS[:6] == ("images", "repeats", "batch_size", "gradient_accumulation", "epochs", "steps")
    assert tuple(length(pictures(("a", 3, 1, SQUARE))).as_dict()) == KEYS


@pytest.mark.setting("sample.every", "sample.every_epochs", "save.every", "save.every_epochs")
def test_marks_fall_at_steps_and_at_the_ends_of_epochs() -> None:
    found = length(pictures(("a", 10, 1, SQUARE)), steps=11, gradient_accumulation_steps=4)  # 2.5 steps an epoch
    assert found.due_steps(4, 0) == (4, 8)
    assert found.due_steps(0, 1) == (3, 5, 8, 10)
    assert found.due_steps(0, 1.5) == (4, 8)
    assert found.due_steps(4, 2) == (4, 5, 8, 10)
    assert found.due_steps(0, 0.01) == tuple(range(1, 12))
    assert found.due_steps(12, 99) == found.due_steps(0, 0) == ()


@given(st.integers(1, 300), st.floats(0.05, 20, allow_nan=False), st.integers(1, 60), st.integers(1, 4))
def test_every_mark_is_where_a_run_of_so_many_epochs_would_end(
    steps: int, every: float, count: int, accumulation: int
) -> None:
    samples = pictures(("a", count, 1, SQUARE))
    found = length(samples, steps=steps, gradient_accumulation_steps=accumulation)
    first = found.steps_after(every)
    assert first == length(samples, epochs=every, gradient_accumulation_steps=accumulation).steps
    marks = found.due_steps(0, every)
    assert (marks[:1] == (first,)) is (first <= steps)
