"""Parts of a micro-batch, for forward passes of fewer samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from trainer_core.types import Batch, TextCondition


def parts_of(batch: Batch, size: int) -> Iterator[tuple[Batch, float]]:
    """Yield parts of a batch in order, each with its share of the batch's samples; the shares add up to 1.

    Args:
        batch: noise, timesteps and captions of each sample stay its own.
        size: samples of a part; 0 for the whole batch.
    """
    count = len(batch.sample_ids)
    if not 0 < size < count:
        yield batch, 1.0
        return
    for start in range(0, count, size):
        part = slice(start, start + size)
        own = {field.name: _part(getattr(batch, field.name), part) for field in fields(batch)}
        own["controls"] = tuple(latents[part] for latents in batch.controls)
        yield replace(batch, **own), len(own["sample_ids"]) / count


def _part(value: Any, part: slice) -> Any:
    """Return the part of what has one row a sample."""
    if isinstance(value, TextCondition):
        return TextCondition(*(_part(getattr(value, field.name), part) for field in fields(value)))
    return value[part] if isinstance(value, Tensor | tuple | list) else value
