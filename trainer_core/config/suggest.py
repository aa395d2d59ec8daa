"""From an unknown key to the setting that was probably meant."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping

from trainer_core.config.document import KeyPath
from trainer_core.config.fields import FieldRow, field_rows, group_models

ALIASES: Mapping[str, str] = {
    "batch": "train.batch_size",
    "iterations": "train.steps",
    "learning_rate_scheduler": "schedule.name",
    "lora_alpha": "adapter.alpha",
    "lora_rank": "adapter.rank",
    "warmup": "schedule.warmup_steps",
}
"""Usual words that the documentation of no field gives. What it gives is read from there alone."""


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
    """Names in other trainers -> our path, from the documentation of the fields ("kohya: ...", "ai-toolkit: ...").

    kohya's names count first, as more people know them; then ai-toolkit's, and the last parts of its dotted names
    (`network.conv` is `conv` too).
    """
    rows = list(field_rows().values())
    kohya = [(name, row) for row in rows for name in row.kohya]
    ai_toolkit = [(name, row) for row in rows for name in row.ai_toolkit]
    last_parts = [(name.rpartition(".")[2], row) for name, row in ai_toolkit]
    documented: dict[str, str] = {}
    for name, row in (*kohya, *ai_toolkit, *last_parts):
        documented.setdefault(name, _path(row))
    return {**ALIASES, **documented}


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
    matches = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return matches[0] if matches else None
