"""What of a sample decides its results: the one list that data versions, recorded parts and tables are made from.

A field of `Sample` that is new, and any other that most samples do not have, counts only where it is not its default:
data versions of before there was such a field stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields

from trainer_core.config.groups import DatasetConfig
from trainer_core.data.captions.sample_captions import caption_key_parts
from trainer_core.data.pictures.crops_and_views import key_parts
from trainer_core.types import DATASET_SETTING, JSON, Geometry, Sample, View

DATASET_SETTINGS: Mapping[str, object] = {
    field.name: field.default for field in fields(Sample) if DATASET_SETTING in field.metadata
}
"""Fields of `Sample` that are settings of its dataset -> their defaults."""


def dataset_settings(dataset: DatasetConfig) -> dict[str, JSON]:
    """Return the fields of a sample that are settings of its dataset."""
    return {name: getattr(dataset, name) for name in DATASET_SETTINGS}


def version_row(sample: Sample) -> list[JSON]:
    """Return everything that training sees of a sample, as JSON; equal rows train alike. Paths do not count."""
    geometry, bucket = sample.geometry, sample.bucket
    shape = (*geometry.original, *geometry.resized, *geometry.crop, *geometry.target)
    size = (bucket.width, bucket.height)
    row: list[JSON] = [sample.id, sample.picture, sample.caption, size, shape, sample.repeats, sample.split]
    if sample.controls:
        row.append([(control.picture, *control.original, *control.encoded) for control in sample.controls])
    if captions := caption_key_parts(sample):
        row.append(captions)
    if unusual := _views_and_mask(sample, _view_row) | _settings(sample):
        row.append(unusual)
    return row


def recorded_parts(sample: Sample) -> dict[str, JSON]:
    """Return views, mask and dataset settings of a sample by name, for `plan` to say what changed."""
    return _views_and_mask(sample, _view_parts) | training_parts(sample)


def training_parts(sample: Sample) -> dict[str, JSON]:
    """Return how a sample counts in training, by name, where it is not the default."""
    return {part_name(name): value for name, value in _settings(sample).items()}


def part_name(field: str) -> str:
    """Return what a dataset setting is called in recorded parts."""
    return field.replace("_", " ")


def geometry_parts(geometry: Geometry) -> list[list[int]]:
    """Return how a picture becomes what is encoded (resized, crop, target), in the form that JSON gives back."""
    return [list(geometry.resized), list(geometry.crop), list(geometry.target)]


def _settings(sample: Sample) -> dict[str, JSON]:
    values = {name: getattr(sample, name) for name in DATASET_SETTINGS}
    return {name: value for name, value in values.items() if value != DATASET_SETTINGS[name]}


def _views_and_mask(sample: Sample, describe: Callable[[View], JSON]) -> dict[str, JSON]:
    parts: dict[str, JSON] = {}
    if sample.views:
        parts["views"] = [describe(view) for view in sample.views]
    if sample.mask is not None:
        parts["mask"] = [sample.mask.picture, sample.mask.alpha]
    return parts


def _view_row(view: View) -> JSON:
    return [view.geometry.resized, view.geometry.crop, key_parts(view)]


def _view_parts(view: View) -> JSON:
    return [geometry_parts(view.geometry), key_parts(view)]
