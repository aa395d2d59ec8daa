"""Which texts are encoded before training, and which of them a draw takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from trainer_core.data.captions.caption_variants import Dropout, draw_text
from trainer_core.data.epoch.batch_order import Draw
from trainer_core.stages.caching.entries import EMPTY, class_id, empty_id, text_id
from trainer_core.stages.project.workspace import Workspace
from trainer_core.train.caption_choice import TextChoice
from trainer_core.types import Sample


class Text(NamedTuple):
    """A text to encode: the name of its entry, the sample that it is of, and what it says."""

    name: str
    sample: Sample
    text: str


def texts_to_encode(workspace: Workspace, dropout: Dropout, live: bool) -> Iterator[Text]:
    """Yield every text that needs an entry: captions, and what draws of training samples may take instead.

    Args:
        workspace: its samples and its family count.
        dropout: how often captions are left out.
        live: training encodes its captions itself. Then only the class captions and those of held-out pictures are
            encoded beforehand.
    """
    drops, with_controls = _drops(dropout, live), _reads_controls(workspace)
    for number, sample in enumerate(workspace.manifest.samples):
        if drops and not with_controls and number == 0:
            yield Text(EMPTY, sample, "")
        if not live or sample.split == "held_out":
            yield Text(sample.id, sample, sample.caption)
        for text, name in _names(sample).items():
            if name != sample.id:
                yield Text(name, sample, text)
        if sample.class_caption:
            yield Text(class_id(sample.id), sample, sample.class_caption)
        if drops and with_controls and sample.split == "train":
            yield Text(empty_id(sample.id), sample, "")


def text_choice(workspace: Workspace, samples: Sequence[Sample], dropout: Dropout, live: bool) -> TextChoice | None:
    """Return what draws of the training samples choose from; None where each has one text.

    `live`: training encodes its captions itself.
    """
    varied: dict[str, tuple[Sample, tuple[str, ...]]] = {}
    for sample in samples:
        if sample.texts:
            names = _names(sample)
            varied[sample.id] = sample, tuple(names[text] for text in sample.texts)
    empty: dict[str, str] = {}
    if _drops(dropout, live):
        with_controls = _reads_controls(workspace)
        empty = {sample.id: empty_id(sample.id) if with_controls else EMPTY for sample in samples}
    classes = {sample.id: class_id(sample.id) for sample in samples if sample.class_caption}
    return TextChoice(dropout, varied, empty, classes) if varied or empty or classes else None


def live_captions(samples: Sequence[Sample], dropout: Dropout, seed: int) -> Callable[[Draw], str]:
    """Return what gives a draw its caption where captions are encoded batch by batch: any text that there can be."""
    by_id = {sample.id: sample for sample in samples}
    return lambda draw: draw_text(by_id[draw.sample_id], dropout, seed, draw.epoch, draw.repeat)


def names_needed(samples: Sequence[Sample], choice: TextChoice | None, live: bool) -> list[str]:
    """Return the names of all entries that training on these samples may take; `live`: it encodes captions itself."""
    if live:
        return [] if choice is None else list(choice.classes.values())
    if choice is None:
        return [sample.id for sample in samples]
    names = dict.fromkeys(sample.id for sample in samples if sample.id not in choice.varied)
    for _, entries in choice.varied.values():
        names |= dict.fromkeys(entries)
    return list(names | dict.fromkeys([*choice.empty.values(), *choice.classes.values()]))


def _drops(dropout: Dropout, live: bool) -> bool:
    return not live and bool(dropout.dropout or dropout.dropout_every_n_epochs)


def _reads_controls(workspace: Workspace) -> bool:
    """Say whether the text encoder looks at control pictures too."""
    control = workspace.family.spec.control
    return control is not None and control.in_text


def _names(sample: Sample) -> dict[str, str]:
    """Return text -> name of its entry, in the order of the texts."""
    names: dict[str, str] = {}
    for text in dict.fromkeys(sample.texts):
        names[text] = sample.id if text == sample.caption else text_id(sample.id, len(names) + 1)
    return names
