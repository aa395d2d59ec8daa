"""Which cached text a draw is trained on: a function of its seed, epoch, sample and repeat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer_core.data.captions.caption_variants import Dropout, chosen_variant, is_dropped
from trainer_core.data.epoch.batch_order import Draw
from trainer_core.types import Sample


@dataclass(frozen=True)
class TextChoice:
    """The names in `CachedSamples.text` that draws choose from."""

    settings: Dropout
    varied: Mapping[str, tuple[Sample, tuple[str, ...]]]
    """Sample id -> the sample and the name of each of its `texts`, for samples that have some; all others are trained
    on the text of their own id."""
    empty: Mapping[str, str]
    """Sample id -> name of the empty caption; may lack samples only if nothing is dropped."""
    classes: Mapping[str, str]
    """Sample id -> name of its class caption; empty if no output is preserved."""

    def of(self, draw: Draw, seed: int) -> str:
        """Return the name of the text of a draw."""
        if is_dropped(self.settings, draw.sample_id, seed, draw.epoch, draw.repeat):
            return self.empty[draw.sample_id]
        if draw.sample_id not in self.varied:
            return draw.sample_id
        sample, names = self.varied[draw.sample_id]
        number = chosen_variant(sample, seed, draw.epoch, draw.repeat)
        return draw.sample_id if number is None else names[number]
