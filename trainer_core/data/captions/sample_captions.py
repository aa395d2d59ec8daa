"""From the lines of a caption file to what a sample has of them: its caption, its texts, its class caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple

from trainer_core.config.groups import CaptionConfig
from trainer_core.data.captions.caption_file import CaptionText, candidate_lines, class_caption, frame_caption
from trainer_core.data.captions.caption_variants import list_variants, plain_text, varies
from trainer_core.types import CaptionRules, CaptionSource, Sample


class ParsedCaption(NamedTuple):
    """What a caption file comes to."""

    caption: str
    """`Sample.caption`: without anything random."""
    source: CaptionSource | None
    """None where all draws have the caption."""
    class_caption: str
    """`Sample.class_caption`."""


class CaptionChoices(NamedTuple):
    """The fields of a `Sample` of these names."""

    texts: tuple[str, ...] = ()
    epoch_groups: int = 1
    source: CaptionSource | None = None


@dataclass(frozen=True)
class CaptionPlan:
    """The settings that turn captions into texts, beside those of the group `caption`."""

    rules: CaptionRules = CaptionRules()
    preserved: str | None = None
    """`loss.preservation_class`; None where no output is preserved."""
    live: bool = False
    """Whether captions are encoded batch by batch, so that texts need no list."""

    def parse(self, text: CaptionText, caption: CaptionConfig, trigger_word: str) -> ParsedCaption:
        """Return what the lines of a caption file come to."""
        lines = tuple([frame_caption(line, caption, trigger_word) for line in candidate_lines(text, caption.multiline)])
        plain = plain_text(lines[0], trigger_word, self.rules)
        kept = "" if self.preserved is None else class_caption(plain, trigger_word, self.preserved)
        source = CaptionSource(lines, trigger_word, self.rules) if varies(lines, self.rules) else None
        return ParsedCaption(plain, source, kept)

    def choices(self, source: CaptionSource | None, limit: int) -> CaptionChoices:
        """Return what draws of a training sample choose from."""
        if source is None or self.live:
            return CaptionChoices(source=source)
        texts = list_variants(source, limit)
        return CaptionChoices(texts.variants, texts.epoch_groups, source) if texts.variants else CaptionChoices()


def encodes_captions_live(cache: str, text_encoders: Sequence[str]) -> bool:
    """Say whether training encodes its captions batch by batch: asked for, or because a text encoder changes.

    Args:
        cache: `text.cache`.
        text_encoders: `adapter.text_encoders`, those that are trained.
    """
    return cache == "never" or (cache == "auto" and bool(text_encoders))


def caption_key_parts(sample: Sample) -> list[object]:
    """Return what decides the texts of a sample's draws beside its caption, in JSON's terms; empty if nothing does."""
    row: list[object] = []
    if sample.texts:
        row.append(["texts", sample.epoch_groups, sample.texts])
    elif sample.source is not None:
        row.append(["source", sample.source.lines, sample.source.trigger_word, astuple(sample.source.rules)])
    if sample.class_caption:
        row.append(["class", sample.class_caption])
    return row
