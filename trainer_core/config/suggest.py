"""From a key nobody knows to the one that was meant."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping

from trainer_core.config.document import KeyPath
from trainer_core.config.fields import FieldRow, field_rows, group_models

OTHER_NAMES: Mapping[str, str] = {
    "batch": "train.batch_size",
    "conv_dim": "adapter.targets",
    "folder_path": "datasets.0.path",
    "image_dir": "datasets.0.path",
    "iterations": "train.steps",
    "learning_rate_scheduler": "schedule.name",
    "linear": "adapter.rank",
    "linear_alpha": "adapter.alpha",
    "lora_alpha": "adapter.alpha",
    "lora_rank": "adapter.rank",
    "name_or_path": "model.path",
    "output_name": "save.output_name",
    "pretrained_model_name_or_path": "model.path",
    "sample_every": "sample.every",
    "sample_prompts": "sample.prompts",
    "save_every": "save.every",
    "save_every_n_steps": "save.every",
    "save_state": "train.checkpoint_every",
    "train_data_dir": "datasets.0.path",
    "unet_lr": "optimizer.lr",
    "warmup": "schedule.warmup_steps",
}
"""Names of other trainers that the documentation of no field gives."""


def suggest_key(path: KeyPath) -> str | None:
    """Return the setting that an unknown key was probably meant to be, or None.

    Tried in turn: another trainer's name for it, the same name in another group, a similar name in its own group, a
    similar name anywhere.
    """
    known = [part for part in path if isinstance(part, str)]
    if not known:
        return None
    group, name = (known[0] if len(known) > 1 else ""), known[-1]
    if not group and (meant := _close(name, [*group_models(), "name"])):
        return meant
    return foreign_names().get(name) or _same_name(name, group) or _similar(name, group)


def suggest_choice(value: object, choices: Iterable[object]) -> str | None:
    """Return the choice nearest to a value, or None."""
    return _close(str(value), [str(choice) for choice in choices])


@functools.cache
def foreign_names() -> Mapping[str, str]:
    """Names in other trainers -> our path."""
    rows = list(field_rows().values())
    documented: dict[str, str] = {}
    # kohya's names first: more people know them.
    for names in ([(row, row.kohya) for row in rows], [(row, row.ai_toolkit) for row in rows]):
        for row, name in ((row, name) for row, own in names for name in own):
            documented.setdefault(name, _path(row))
    return {**documented, **OTHER_NAMES}


def _path(row: FieldRow) -> str:
    return f"datasets.0.{row.name}" if row.group == "datasets" else row.path


def _same_name(name: str, group: str) -> str | None:
    homes = [_path(row) for row in field_rows().values() if row.name == name and row.group != group]
    return "` or `".join(homes) if homes else None


def _similar(name: str, group: str) -> str | None:
    rows = field_rows().values()
    mine = {row.name: row for row in rows if row.group == group}
    if meant := _close(name, mine):
        return _path(mine[meant])
    anywhere = {row.name: row for row in rows}
    meant = _close(name, anywhere)
    return _path(anywhere[meant]) if meant else None


def _close(word: str, words: Iterable[str]) -> str | None:
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return found[0] if found else None
