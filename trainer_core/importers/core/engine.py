"""Applies tables to sections: every key of the source becomes one entry of the report, and settings of a draft."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trainer_core.config.fields import field_rows
from trainer_core.families import get_family
from trainer_core.importers.core.key_table import Context, Conversion, Row, Status, refused
from trainer_core.importers.core.tool_config import Section, Source
from trainer_core.types import JSON, Finding

SHOWN_SECRET = "***"
MISSHAPEN = (TypeError, ValueError, AttributeError, KeyError, IndexError, ArithmeticError)
"""What reading a value of an unexpected form may raise."""
_SECRET = re.compile(r"(?i)(api_?key|token$|password|secret|access_key)")
_GATHERED: Mapping[str, Callable[[JSON, JSON], JSON]] = {
    "caption.extensions": lambda mine, more: [*mine, *[one for one in more if one not in mine]],
    "bucket.max_side": max,
    "bucket.min_side": min,
}
"""Settings that gather what several folders ask for."""


@dataclass(frozen=True)
class Entry:
    """What became of one key."""

    status: Status
    key: str
    value: JSON
    settings: Mapping[str, JSON]
    note: str
    default: bool = False
    """The key was not given: this is what the tool takes then."""

    def as_dict(self) -> dict[str, JSON]:
        """The stable JSON form of `import --json`."""
        return {
            "status": self.status,
            "key": self.key,
            "value": self.value,
            "settings": dict(self.settings),
            "note": self.note,
            "default": self.default,
        }


@dataclass(frozen=True)
class Chosen:
    """The value of one of our settings, and which key gave it."""

    value: JSON
    key: str
    note: str = ""
    default: bool = False


@dataclass
class Draft:
    """A project in the making."""

    settings: dict[str, Chosen] = field(default_factory=dict[str, Chosen])
    datasets: list[dict[str, Chosen]] = field(default_factory=list[dict[str, Chosen]])
    entries: list[Entry] = field(default_factory=list[Entry])
    findings: list[Finding] = field(default_factory=list[Finding])
    files: dict[str, str] = field(default_factory=dict[str, str])
    """Files to write beside the YAML file: name -> text."""

    def value(self, setting: str) -> JSON:
        """Return the value of a setting, ours by default where nothing was chosen."""
        found = self.settings.get(setting)
        return found.value if found else field_rows()[setting].default


def compose(source: Source, target: Path, roots: Sequence[Path]) -> Draft:
    """Turn a source into a draft.

    Args:
        source: what the tool's reader found.
        target: the YAML file that will be written.
        roots: where relative paths of the source may start.
    """
    draft = Draft(findings=list(source.findings))
    family, folder = source.family.family, Path(os.path.abspath(target.parent))
    flow = bool(family) and get_family(family).spec.prediction == "flow"
    for key, value, conversion in source.extra:
        draft.entries.append(Entry(conversion.status, key, _shown(key, value), conversion.settings, conversion.note))
        _keep(draft, conversion, key, None, False)
    context = Context({}, family, flow, folder, roots, stem=target.stem)
    _apply(draft, source.top, context, None)
    for number, section in enumerate(source.datasets):
        draft.datasets.append({})
        _apply(draft, section, context, number)
    _settle_resolutions(draft)
    _settle_names(draft)
    draft.entries = _merged(draft.entries)
    return draft


def _apply(draft: Draft, section: Section, context: Context, number: int | None) -> None:
    """Convert each key of a section, given ones first, then the tool's defaults."""
    context = replace(context, values=section.values)
    missing = {
        default.key: default.value(context) if callable(default.value) else default.value
        for default in section.table.defaults
        if section.values.get(default.key) is None and (default.when is None or default.when(context))
    }
    filled = {**missing, **_given(section.values)}
    context = replace(context, values=filled)
    for key, value in section.values.items():
        if value is not None or key not in missing:
            _convert(draft, section, key, value, context, number)
    for key, value in missing.items():
        _convert(draft, section, key, value, context, number, True)


def _given(values: Mapping[str, JSON]) -> dict[str, JSON]:
    return {key: value for key, value in values.items() if value is not None}


def _convert(  # noqa: PLR0913 - what there is to know of one key
    draft: Draft, section: Section, key: str, value: JSON, context: Context, number: int | None, default: bool = False
) -> None:
    row = section.table.find(key)
    label = section.labels.get(key, key) if default else section.label(key)
    if row is None and value in ({}, []) and any(one.key.startswith(f"{key}.") for one in section.table.rows):
        draft.entries.append(Entry("irrelevant", label, value, {}, "Nothing in it."))
        return
    if row is None:
        draft.entries.append(Entry("unknown", label, _shown(key, value), {}, _nearest(key, section)))
        return
    conversion = _conversion(row, value, replace(context, key=key))
    conversion = _keep(draft, conversion, label, number, default)
    shown = SHOWN_SECRET if row.secret and value else _shown(key, value)
    if default and not _tells(conversion):
        return
    draft.entries.append(Entry(conversion.status, label, shown, conversion.settings, conversion.note, default))


def _conversion(row: Row, value: JSON, context: Context) -> Conversion:
    if value is None:
        return Conversion({}, "irrelevant", "It is empty.")
    try:
        answer = row.convert(value, context)
    except MISSHAPEN as error:
        return refused(f"Its value does not have the expected form ({error}).")
    if not isinstance(answer, Conversion):
        answer = Conversion({row.settings[0]: answer}, row.status, row.note)
    if any(_misread(one) for one in answer.settings.values()):
        return refused("Its value, or that of a key that belongs to it, is not a number.")
    if answer.note or answer.status == "irrelevant":
        return answer
    return replace(answer, note=row.note)


def _misread(value: JSON) -> bool:
    """Say whether a conversion inside another one has refused."""
    return isinstance(value, Conversion) or (
        isinstance(value, list) and any(isinstance(one, Conversion) for one in value)
    )


def _tells(conversion: Conversion) -> bool:
    """Say whether a tool's default differs from ours, so that it has to be written."""
    return conversion.status in ("unsupported", "changed") or any(
        not is_ours(name, value) for name, value in conversion.settings.items()
    )


def is_ours(setting: str, value: JSON) -> bool:
    """Say whether a value is our default."""
    row = field_rows().get(setting)
    if row is None:
        return False
    ours = list(row.default) if isinstance(row.default, tuple) else row.default
    # A default of `()` is also what one value alone stands for.
    return value == ours and isinstance(value, bool) == isinstance(ours, bool)


def _keep(draft: Draft, conversion: Conversion, key: str, number: int | None, default: bool) -> Conversion:
    """Put a conversion into the draft. Report a folder that wants another value of a setting that holds for all."""
    clashes: list[str] = []
    draft.files |= conversion.files
    note = conversion.note if conversion.status == "changed" else ""
    for setting, value in conversion.settings.items():
        chosen = Chosen(value, key, note, default)
        note = ""
        if setting.startswith("datasets."):
            if number is not None:
                draft.datasets[number][setting.partition(".")[2]] = chosen
            continue
        before = draft.settings.get(setting)
        if before is None or not number or before.value == value:
            draft.settings[setting] = chosen
        elif setting in _GATHERED:
            draft.settings[setting] = replace(before, value=_GATHERED[setting](before.value, value))
        elif before.default and not default:
            draft.settings[setting] = chosen
            clashes.append(f"`{setting}` holds for all folders; others of them have {before.value!r} by default.")
        else:
            clashes.append(f"`{setting}` holds for all folders, and `{before.key}` has set it to {before.value!r}.")
    if not clashes:
        return conversion
    return Conversion({}, "irrelevant" if default else "unsupported", " ".join(clashes))


def _nearest(key: str, section: Section) -> str:
    names = [row.key for row in section.table.rows if not row.key.endswith("*")]
    found = difflib.get_close_matches(key, names, n=1, cutoff=0.7)
    return f"This key is not known. Did you mean `{found[0]}`?" if found else "This key is not known."


def _shown(key: str, value: JSON) -> JSON:
    """Hide what looks like a password, above all in unknown keys."""
    if isinstance(value, Mapping):
        return {name: _shown(str(name), item) for name, item in value.items()}
    if isinstance(value, list):
        return [_shown(key, item) for item in value]
    return SHOWN_SECRET if value and isinstance(value, str) and _SECRET.search(key) else value


def _settle_resolutions(draft: Draft) -> None:
    """Make what all folders share the bucket's resolution; folders that differ keep their own."""
    own = [one["resolutions"] for one in draft.datasets if "resolutions" in one]
    if not own:
        return
    largest = max((max(one.value) for one in own if one.value), default=0)
    if "bucket.resolution" not in draft.settings:
        draft.settings["bucket.resolution"] = Chosen(largest, own[0].key, own[0].note, own[0].default)
    for dataset in draft.datasets:
        if "resolutions" in dataset and dataset["resolutions"].value == [draft.value("bucket.resolution")]:
            del dataset["resolutions"]


def _settle_names(draft: Draft) -> None:
    """Give folders of one name different ones, as sample ids begin with them."""
    taken: set[str] = set()
    for dataset in draft.datasets:
        named = dataset.get("name")
        label = str(named.value) if named else Path(str(dataset["path"].value)).name if "path" in dataset else ""
        label = re.sub(r"[/\\]+", "-", label).strip("-") or "dataset"
        fresh, count = label, 2
        while fresh in taken:
            fresh, count = f"{label}-{count}", count + 1
        taken.add(fresh)
        if named or fresh != label:
            key = named.key if named else dataset["path"].key if "path" in dataset else ""
            note = "" if fresh == label else "Another folder has this name."
            dataset["name"] = Chosen(fresh, key, note)


def _merged(entries: Sequence[Entry]) -> list[Entry]:
    """Show a key that several folders have inherited once."""
    found: dict[tuple[str, str, str], Entry] = {}
    for entry in entries:
        found.setdefault((entry.key, entry.status, entry.note), entry)
    return list(found.values())
