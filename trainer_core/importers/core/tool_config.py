"""What a tool's reader hands to the engine, and how files become plain values."""

from __future__ import annotations

import datetime
import json
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer_core.config.document import parse_yaml
from trainer_core.errors import ConfigError, LoraAssetsError
from trainer_core.importers.core.key_table import Conversion, Table
from trainer_core.types import JSON, Finding


class ImportFailed(LoraAssetsError):
    """A foreign config cannot become a project: nothing was written. `findings` say all that is missing."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("\n".join(str(finding) for finding in findings))


Replaced = tuple[str, JSON, Conversion]
"""A key that the reader itself has dealt with: name, value, what became of it."""


def failure(where: str, message: str, fix: str) -> ImportFailed:
    """Make the error of one thing that is wrong."""
    return ImportFailed([Finding("error", where, message, fix)])


@dataclass(frozen=True)
class Section:
    """Some keys, flat (`train.lr`), and the table that knows them."""

    values: Mapping[str, JSON]
    table: Table
    prefix: str = ""
    """Put before a key where it is named: `datasets.0.`."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Whole names of keys that were written elsewhere: `general.flip_aug`."""

    def label(self, key: str) -> str:
        """Name a key as the source does."""
        return self.labels.get(key, key if key.startswith("(") else self.prefix + key)


_REGULARISATION = ("is_reg", "is_regularisation_data", "is_regularization_data")


def in_folder(
    sections: Sequence[Section], folder: Path, own: Sequence[str], empty: Section
) -> tuple[list[Section], list[Replaced]]:
    """Put the folder of `--dataset` in place of the config's own, and keep the other settings of its first dataset.

    Args:
        sections: datasets of the config.
        folder: the pictures.
        own: keys that belong to a folder; the first is its path.
        empty: what stands for a config without datasets; it has the table of keys.

    Returns:
        the dataset, and those of regularisation pictures; what was left out.
    """
    plain = [section for section in sections if not any(section.values.get(key) for key in _REGULARISATION)]
    first = plain[0] if plain else empty
    gone = [key for key in own if first.values.get(key) is not None]
    kept = {key: value for key, value in first.values.items() if key not in gone}
    labels = {**{key: first.label(key) for key in kept}, own[0]: "--dataset"}
    report = [
        (first.label(key), first.values[key], Conversion({}, "irrelevant" if key == own[0] else "unsupported", note))
        for key in gone
        for note in (_FOLDER if key == own[0] else f"{_FOLDER} Give what belongs to the new one.",)
    ]
    report += [
        (section.label(own[0]), section.values.get(own[0]), Conversion({}, "unsupported", _OTHER))
        for section in plain[1:]
    ]
    mine = Section({**kept, own[0]: str(folder)}, first.table, "", labels)
    return [mine, *[section for section in sections if section not in plain]], report


_FOLDER = "The folder of `--dataset` replaces it."
_OTHER = "`--dataset` gives one folder, so this one was left out. Add it to `datasets`."


@dataclass(frozen=True)
class DetectedFamily:
    """The model family, and which keys gave it away."""

    family: str
    by: str
    guessed: bool = False
    problem: str = ""
    """Why there is none."""


@dataclass(frozen=True)
class Source:
    """A foreign config, taken apart."""

    top: Section
    datasets: Sequence[Section]
    family: DetectedFamily
    name: str
    """What the tool calls the result; empty where it does not say."""
    extra: Sequence[Replaced] = ()
    findings: Sequence[Finding] = ()


@dataclass(frozen=True)
class Loaded:
    """A file and its values."""

    path: Path
    data: JSON
    dataset: Path | None = None
    """The file of `--dataset`."""
    folder: Path | None = None
    """The folder of pictures that was given in place of what the config says."""

    def beside(self, name: str) -> Path | None:
        """Find another file of the config: from the current folder, as the tools do, else from this file's own."""
        if not name:
            return None
        found = [root / name for root in (Path(), self.path.parent) if (root / name).is_file()]
        last = self.path.parent / Path(name.replace("\\", "/")).name
        return found[0] if found else last if last.is_file() else None


@dataclass(frozen=True)
class Tool:
    """One trainer whose configs we read."""

    name: str
    title: str
    recognise: Callable[[JSON], str]
    """Values of a file -> by what they are known as this tool's, or nothing."""
    read: Callable[[Loaded], Source]
    tables: Sequence[Table]
    """For the documentation."""


def load(path: Path) -> JSON:
    """Read a TOML, JSON, YAML or env file.

    Raises:
        ImportFailed: it cannot be read.
    """
    try:
        written = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise failure(str(path), f"cannot be read: {error}.", "Give a readable UTF-8 text file.") from error
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        wanted = ", ".join(_READERS)
        raise failure(
            str(path), f"ends in `{path.suffix}`, wanted one of {wanted}.", "Rename the file, or give another."
        )
    try:
        return reader(written, str(path))
    except (ValueError, RecursionError) as error:
        raise failure(str(path), f"is not {path.suffix[1:].upper()}: {error}.", "Correct the file.") from error
    except ConfigError as error:
        raise ImportFailed(error.findings) from error


def flat(values: Mapping[str, JSON], whole: Sequence[str] = (), before: str = "") -> dict[str, JSON]:
    """Write nested groups as dotted keys; lists, and groups named in `whole`, stay as they are."""
    found: dict[str, JSON] = {}
    for key, value in values.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping) and value and name not in whole:
            found |= flat(value, whole, f"{name}.")
        else:
            found[name] = value
    return found


def _toml(written: str, name: str) -> JSON:
    return _plain(tomllib.loads(written))


def _json(written: str, name: str) -> JSON:
    return json.loads(written)


def _yaml(written: str, name: str) -> JSON:
    document = parse_yaml(written, name)
    if document.findings:
        raise ConfigError(document.findings)
    return _plain(document.data)


def _env(written: str, name: str) -> JSON:
    """Read `KEY=value` lines as a shell would; `+=` appends."""
    found: dict[str, JSON] = {}
    for line in written.splitlines():
        words = line.strip().removeprefix("export ").strip()
        if not words or words.startswith("#") or "=" not in words:
            continue
        key, _, value = words.partition("=")
        plain = " ".join(shlex.split(value, comments=True))
        more = key.endswith("+")
        key = key.rstrip("+").strip()
        found[key] = f"{found.get(key, '')} {plain}".strip() if more else plain
    return found


def _plain(value: JSON) -> JSON:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value


_READERS: Mapping[str, Callable[[str, str], JSON]] = {
    ".toml": _toml,
    ".json": _json,
    ".yaml": _yaml,
    ".yml": _yaml,
    ".env": _env,
}
