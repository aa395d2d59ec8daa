from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.data.helpers import sample
from trainer_core.data.manifest import Manifest
from trainer_core.data.sample_identity import DATASET_SETTINGS, recorded_parts, training_parts, version_row
from trainer_core.types import Bucket, CaptionRules, CaptionSource, Control, Geometry, Mask, Sample, View

GEOMETRY = Geometry((64, 64), (72, 72), (4, 4), (64, 64))
SOURCE = CaptionSource(("a cat", "two cats"), "", CaptionRules())
DIFFERENT: dict[str, Any] = {
    "id": "set/b.png",
    "picture": "1" * 64,
    "caption": "a dog",
    "bucket": Bucket(32, 64),
    "geometry": GEOMETRY,
    "repeats": 2,
    "split": "held_out",
    "controls": (Control(Path("c.png"), "2" * 64, (64, 64), (64, 64)),),
    "texts": ("a cat", "two cats"),
    "source": SOURCE,
    "class_caption": "an animal",
    "views": (View(GEOMETRY), View(GEOMETRY, flip=True)),
    "mask": Mask(Path("m.png"), "3" * 64),
    "loss_weight": 0.5,
    "regularisation": True,
}
"""A value that is not the default for every field of `Sample` that decides what training sees."""
INDIFFERENT = {"path", "epoch_groups"}
"""`path` decides nothing; `epoch_groups` counts with `texts` (see below)."""


def version(one: Sample) -> str:
    return Manifest((one,), (), (), 1).data_version


@pytest.mark.parametrize("name", [field.name for field in fields(Sample) if field.name not in INDIFFERENT])
def test_every_field_of_a_sample_changes_the_data_version(name: str) -> None:
    """A new field without a value in DIFFERENT fails here: say what it may be, and it must count."""
    plain = sample("set/a.png")
    assert version(replace(plain, **{name: DIFFERENT[name]})) != version(plain)


def test_the_group_that_an_epoch_takes_counts_and_the_path_does_not() -> None:
    varied = sample("set/a.png", texts=("x", "y"))
    assert version(replace(varied, epoch_groups=2)) != version(varied)
    assert version(replace(varied, path=Path("elsewhere.png"))) == version(varied)


def test_defaults_leave_no_trace() -> None:
    plain = sample("set/a.png")
    assert (recorded_parts(plain), training_parts(plain)) == ({}, {})
    assert len(version_row(plain)) == 7


def test_settings_of_the_dataset_are_recorded_under_their_names() -> None:
    assert dict(DATASET_SETTINGS) == {"loss_weight": 1.0, "regularisation": False}
    unusual = sample("set/a.png", loss_weight=0.5, regularisation=True)
    assert training_parts(unusual) == {"loss weight": 0.5, "regularisation": True}
    assert version_row(unusual)[-1] == {"loss_weight": 0.5, "regularisation": True}
