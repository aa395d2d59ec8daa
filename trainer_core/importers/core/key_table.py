"""What a tool's table of keys is made of: rows that say what becomes of a key, and what a conversion may answer.

A row is made by `to` (a setting of ours), `several` (more than one), `unsupported` (what to do instead), `irrelevant`
(why it does not matter here) or `secret` (never read, never shown). `*` at the end of a key stands for any ending.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trainer_core.types import JSON

Status = Literal["mapped", "changed", "unsupported", "irrelevant", "unknown"]


@dataclass(frozen=True)
class Conversion:
    """What one value becomes: our settings (`group.field`; `datasets.field` for the folder at hand), and why."""

    settings: Mapping[str, JSON] = field(default_factory=dict[str, JSON])
    status: Status = "mapped"
    note: str = ""
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """Files to write beside the YAML file: name -> text."""


@dataclass(frozen=True)
class Context:
    """What a conversion may look at besides its own value."""

    values: Mapping[str, JSON]
    """All keys of the section, flat, with the tool's defaults filled in."""
    family: str
    """Our name of the model family."""
    flow: bool
    """Flow matching, else DDPM diffusion."""
    folder: Path
    """Folder of the YAML file that is written."""
    roots: Sequence[Path] = ()
    """Where relative paths of the source may start, the likeliest first."""
    key: str = ""
    """The key at hand: rows that end in `*` stand for many."""
    stem: str = "imported"
    """Name of the YAML file that is written, without its ending."""

    def get(self, key: str, default: JSON = None) -> JSON:
        """Return another value of the section."""
        found = self.values.get(key)
        return default if found is None else found

    @property
    def last(self) -> str:
        """The last part of the key at hand."""
        return self.key.rpartition(".")[2]


Convert = Callable[[JSON, Context], JSON]
"""A value -> our value, or a `Conversion`."""
Condition = Callable[[Context], bool]


@dataclass(frozen=True)
class Row:
    """One key of a tool."""

    key: str
    status: Status
    """What usually becomes of it."""
    settings: tuple[str, ...]
    """Ours."""
    note: str
    convert: Convert
    secret: bool = False


@dataclass(frozen=True)
class Default:
    """What a tool takes where a key is not given, and we would take something else."""

    key: str
    value: JSON
    """The value, or a function of the context that gives it."""
    when: Condition | None = None


@dataclass(frozen=True)
class Table:
    """The keys of one kind of section."""

    title: str
    rows: Sequence[Row]
    defaults: Sequence[Default] = ()

    def find(self, key: str) -> Row | None:
        """Return the row of a key: its own, or the one with the longest beginning in common."""
        exact = {row.key: row for row in self.rows}
        if key in exact:
            return exact[key]
        fitting = [row for row in self.rows if row.key.endswith("*") and key.startswith(row.key[:-1])]
        return max(fitting, key=lambda row: len(row.key), default=None)


OFF: tuple[JSON, ...] = (None, False, 0, 0.0, "", [], {}, "0", "none", "None", "no", "false", "False")
"""Values that say: do not."""


def is_off(value: JSON, off: Sequence[JSON] = OFF) -> bool:
    """Say whether a value turns its option off; `true` is not `1` here."""
    return any(value == word and isinstance(value, bool) == isinstance(word, bool) for word in off)


def changed(settings: Mapping[str, JSON], note: str) -> Conversion:
    """Answer: this comes nearest, and differs in so far."""
    return Conversion(settings, "changed", note)


def refused(note: str) -> Conversion:
    """Answer: this cannot be had here; what to do."""
    return Conversion({}, "unsupported", note)


def dropped(note: str) -> Conversion:
    """Answer: it does not matter here, and why."""
    return Conversion({}, "irrelevant", note)


def same(value: JSON, context: Context) -> JSON:
    """Take the value as it is."""
    return value


def to(key: str, setting: str, convert: Convert = same, note: str = "", status: Status = "mapped") -> Row:
    """Make the row of a key that is one setting of ours."""
    return Row(key, status, (setting,), note, convert)


def several(key: str, settings: str, convert: Convert, note: str = "", status: Status = "mapped") -> Row:
    """Make the row of a key whose conversion answers with a `Conversion`; `settings` are ours, separated by spaces."""
    return Row(key, status, tuple(settings.split()), note, convert)


def unsupported(key: str, fix: str, off: Sequence[JSON] = OFF) -> Row:
    """Make the row of a key that we have nothing for; values in `off` ask for nothing."""

    def convert(value: JSON, context: Context) -> JSON:
        return dropped("It is off in the other tool.") if is_off(value, off) else refused(fix)

    return Row(key, "unsupported", (), fix, convert)


def irrelevant(keys: str, why: str) -> list[Row]:
    """Make the rows of keys, separated by spaces, that do not matter here."""
    return [Row(key, "irrelevant", (), why, lambda value, context: dropped(why)) for key in keys.split()]


MEMORY = (
    "Memory is not saved in this way here. `memory.base`, `memory.blocks_to_swap`, `memory.micro_batch` and "
    "`train.gradient_checkpointing` are what there is; `lora-assets plan` says what fits."
)
_NO_SAVING: tuple[JSON, ...] = (*OFF, "NONE", "no_change", "no_change_te", "default", -1)


def memory(keys: str) -> list[Row]:
    """Make the rows of keys, separated by spaces, that save memory or compile the model."""
    return [unsupported(key, MEMORY, _NO_SAVING) for key in keys.split()]


def quantised(value: JSON, context: Context) -> Conversion:
    """Convert the dtype of a frozen part: a plain one does not matter here, a quantised one is not supported."""
    written = str(value).lower().replace("_", "")
    plain = written in ("none", "float32", "float16", "bfloat16", "fp32", "fp16", "bf16", "tfloat32", "auto", "default")
    return dropped("The base has the precision `train.precision`.") if plain else refused(MEMORY)


def secret(keys: str) -> list[Row]:
    """Make the rows of keys whose values are passwords: not read, not shown, not written."""
    why = "It is a secret. Give it in an environment variable. It was neither written nor shown."
    return [Row(key, "irrelevant", (), why, lambda value, context: dropped(why), secret=True) for key in keys.split()]
