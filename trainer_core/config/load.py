"""From a YAML file and `--set` overrides to a `Project`, or to a list of everything that is wrong with them."""

from __future__ import annotations

import datetime
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML

from trainer_core.config.document import KeyPath, dotted, parse_scalar, parse_yaml
from trainer_core.config.fields import REQUIRED, FieldRow, field_rows, group_models
from trainer_core.config.project import Project
from trainer_core.config.suggest import suggest_choice, suggest_key
from trainer_core.errors import ConfigError
from trainer_core.types import JSON, Finding

HOME_VARIABLE = "LORA_ASSETS_HOME"
HOME_FOLDER = ".lora-assets"

_PATH_FIELDS = frozenset(
    {
        ("model", "path"),
        ("model", "config_path"),
        ("model", "vae_path"),
        ("model", "text_encoder_paths"),
        ("datasets", "path"),
        ("datasets", "control_path"),
        ("datasets", "mask_path"),
        ("adapter", "init_from"),
        ("sample", "prompt_file"),
        ("sample", "control_paths"),
        ("gate", "judge"),
        ("gate", "clip_path"),
        ("gate", "control_paths"),
    }
)
_HUB_FIELDS = frozenset({("model", "path"), ("model", "config_path")})
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(?<!\.safetensors)(?<!\.ckpt)")
"""`owner/name` on the Hugging Face hub, where no folder of that name is there."""


@dataclass(frozen=True)
class _Source:
    """Values not yet validated, and where each of them came from."""

    file: Path
    data: dict[str, JSON]
    lines: Mapping[KeyPath, int]
    findings: list[Finding] = field(default_factory=list[Finding])
    overridden: set[KeyPath] = field(default_factory=set[KeyPath])

    def origin(self, path: KeyPath) -> str:
        """Name the override, or else file and line, that gave the value at `path` or the group around it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.overridden:
                return f"--set {dotted(path[:end])}"
            if path[:end] in self.lines:
                return f"{self.file}:{self.lines[path[:end]]}"
        return str(self.file)


def load_project(path: Path, overrides: Sequence[str] = ()) -> Project:
    """Read a project.

    Args:
        path: YAML file. Relative paths in it start at its own folder; `name` is the file's stem unless given.
        overrides: `group.field=value` each (`datasets.0.repeats=2`), the value being YAML. They win over the file;
            relative paths in them start at the current folder.

    Raises:
        ConfigError: with one finding for each thing that is wrong.
    """
    source = _read(path)
    for override in overrides:
        _apply(override, source)
    source.data.setdefault("name", path.stem)
    project = _validate(source)
    if project is None or source.findings:
        raise ConfigError(source.findings)
    return project


def dump_project(project: Project) -> str:
    """Write a project as YAML with every setting, from which `load_project` reads an equal one."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.width = 120
    # Groups in the order of the project, not of the alphabet.
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]
    stream = io.StringIO()
    yaml.dump(project.model_dump(mode="json"), stream)
    return stream.getvalue()


def project_home(config_path: Path) -> Path:
    """Return the folder of store, outputs and Dagster's records.

    `LORA_ASSETS_HOME`, or else `.lora-assets` at the root of the project: the folder of the YAML file, or the one above
    where that folder is called `configs`.
    """
    chosen = os.environ.get(HOME_VARIABLE, "")
    if chosen:
        return _absolute(chosen, Path.cwd())
    folder = _absolute(str(config_path), Path.cwd()).parent
    root = folder.parent if folder.name == "configs" else folder
    return root / HOME_FOLDER


def _read(path: Path) -> _Source:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        fix = "Give the path of a project's YAML file."
        raise ConfigError([Finding("error", str(path), "does not exist.", fix)]) from error
    except (OSError, UnicodeDecodeError) as error:
        fix = "Give the path of a readable UTF-8 text file."
        raise ConfigError([Finding("error", str(path), f"cannot be read: {error}.", fix)]) from error
    document = parse_yaml(text, str(path))
    data = _plain({} if document.data is None else document.data, (), _absolute(str(path), Path.cwd()).parent)
    if not isinstance(data, dict):
        message = f"holds a {type(document.data).__name__}, wanted groups of settings."
        raise ConfigError([Finding("error", str(path), message, "Begin with `model:` and `datasets:`.")])
    return _Source(path, data, document.lines, list(document.findings))


def _plain(value: JSON, path: KeyPath, folder: Path) -> JSON:
    """Make a YAML value JSON: paths absolute from `folder`, `1e3` a whole number, dates words again."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, (*path, str(key)), folder) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item, (*path, number), folder) for number, item in enumerate(value)]
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value and isinstance(value, str):
        name = tuple(part for part in path if isinstance(part, str))
        if name in _PATH_FIELDS and not (name in _HUB_FIELDS and _names_hub(value, folder)):
            return str(_absolute(value, folder))
    return value


def _names_hub(value: str, folder: Path) -> bool:
    """Say whether a value is the id of a model on the hub: it looks like one and no such folder is there."""
    return _HUB_ID.fullmatch(value) is not None and not (folder / value).exists()


def _absolute(path: str, folder: Path) -> Path:
    # Not resolve(): a user who links a folder into the project wants to read the link's name in messages.
    return Path(os.path.abspath(folder / Path(path).expanduser()))


def _apply(override: str, source: _Source) -> None:
    """Put one `group.field=value` into the values."""
    name, equals, text = override.partition("=")
    path: KeyPath = tuple(int(part) if part.isdecimal() else part for part in name.strip().split("."))
    if not equals or not name.strip() or "" in path:
        fix = "Write it like `--set train.steps=100`."
        source.findings.append(Finding("error", f"--set {override}", "is not of the form group.field=value.", fix))
        return
    try:
        value = _plain(parse_scalar(text.strip()), path, Path.cwd())
    except ConfigError as error:
        named = [Finding("error", f"--set {name}", found.message, found.fix) for found in error.findings]
        source.findings.extend(named)
        return
    problem = _put(source.data, path, value)
    if problem:
        source.findings.append(Finding("error", f"--set {name}", problem, "Name an existing group or list item."))
    source.overridden.add(path)


def _put(data: dict[str, JSON], path: KeyPath, value: JSON) -> str | None:
    """Set data[path], creating groups on the way; an item may be put just behind a list's end. Return what is wrong."""
    holder: JSON = data
    for depth, part in enumerate(path):
        key = _slot(holder, part)
        if key is None:
            above = dotted(path[:depth])
            return f"has no place: `{above}` is {_show(holder)}, which has no `{part}`."
        if depth == len(path) - 1:
            holder[key] = value
        elif holder[key] is None:
            holder[key] = [] if key == "datasets" else {}
        holder = holder[key]
    return None


def _slot(holder: JSON, part: str | int) -> str | int | None:
    """Return the key or number of `part` in a mapping or list, made if need be; None where it cannot be."""
    if isinstance(holder, dict):
        holder.setdefault(str(part), None)
        return str(part)
    if not isinstance(holder, list) or not isinstance(part, int) or part > len(holder):
        return None
    if part == len(holder):
        holder.append(None)
    return part


def _validate(source: _Source) -> Project | None:
    try:
        # Strict, in JSON mode: `rank: "16"` and `upscale: on` are errors, a list may still become a tuple.
        return Project.model_validate_json(json.dumps(source.data), strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)
        # A list counts only its valid items: with a bad one it is "too short" as well, which would mislead.
        bad_items = {detail["loc"][:1] for detail in details if len(detail["loc"]) > 1}
        clear = [detail for detail in details if detail["type"] != "too_short" or detail["loc"] not in bad_items]
        source.findings.extend(_finding(detail, source) for detail in clear)
        return None


def _finding(detail: ErrorDetails, source: _Source) -> Finding:
    path: KeyPath = detail["loc"]
    if detail["type"] == "extra_forbidden":
        return _unknown(path, source)
    row = _row_at(path)
    if detail["type"] == "missing":
        wanted = row.wanted if row else "a group of settings"
        fix = f"Add it under `{dotted(path[:-1])}:`." if len(path) > 1 else f"Add `{dotted(path)}:` to the file."
        return Finding("error", dotted(path), f"is missing ({source.origin(path)}), wanted {wanted}.", fix)
    wanted = row.wanted if row else _wanted_group(path)
    message = f"is {_show(detail['input'])} ({source.origin(path)}), wanted {wanted}."
    return Finding("error", dotted(path), message, _fix(detail, row))


def _unknown(path: KeyPath, source: _Source) -> Finding:
    meant = suggest_key(path)
    fix = f"Did you mean `{meant}`?" if meant else _alternatives(path)
    return Finding("error", dotted(path), f"is not a setting ({source.origin(path)}).", fix)


def _alternatives(path: KeyPath) -> str:
    group = str(path[0]) if len(path) > 1 else ""
    names: Iterable[str] = [row.name for row in field_rows().values() if row.group == group]
    return f"Remove it; `{group}` has {', '.join(names)}." if group else f"Groups are {', '.join(group_models())}."


def _row_at(path: KeyPath) -> FieldRow | None:
    """The setting at a path such as `datasets.0.path` or `optimizer.betas.1`."""
    names = [part for part in path if isinstance(part, str)]
    return field_rows().get(".".join(names[:2]))


def _wanted_group(path: KeyPath) -> str:
    return "a list of at least one dataset" if path == ("datasets",) else "a group of settings"


_WORDS = {"on": "true", "yes": "true", "1": "true", "off": "false", "no": "false", "0": "false"}


def _fix(detail: ErrorDetails, row: FieldRow | None) -> str:
    if row is None:
        return "Write the settings of the group indented below it, one on a line."
    kind, given = detail["type"], str(detail["input"])
    meant = suggest_choice(given, row.wanted.split("`")[1::2]) if kind == "literal_error" else None
    if meant:
        return f"Did you mean `{meant}`?"
    if kind == "bool_type" and given.lower() in _WORDS:
        return f"Write `{_WORDS[given.lower()]}`: YAML 1.2 knows no other word for it."
    if kind in {"int_type", "float_type"} and isinstance(detail["input"], str):
        return "Write the number without quotes."
    if kind in {"string_type", "path_type"}:
        return "Put it in quotes."
    if row.default is REQUIRED:
        return "Rename the file, or give `name:` in it."
    return f"The default is {_show(row.default)}."


def _show(value: object) -> str:
    """Write a value as it would stand in the file, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
