"""Every setting as a row of data: what messages, suggestions and the reference are made from."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from trainer_core.config.project import Project
from trainer_core.types import JSON

REQUIRED = object()
"""Stands for the default of a field that has none."""


@dataclass(frozen=True)
class FieldRow:
    """One setting. `group` is empty for `name`; fields of `datasets` belong to each item of the list."""

    group: str
    name: str
    wanted: str
    """Type and range in words: `a whole number from 1 to 4096`."""
    default: JSON
    text: str
    neutral: bool
    """The field changes how the work is done, never what comes out, so no key contains it."""

    @property
    def path(self) -> str:
        """`group.field`."""
        return f"{self.group}.{self.name}" if self.group else self.name

    @property
    def meaning(self) -> str:
        """What it does: its documentation without the default's source and the names in other trainers."""
        return re.split(r" (?:Default|kohya|ai-toolkit): ", self.text)[0]

    @property
    def default_source(self) -> str:
        """Where the default comes from, in words; empty where the documentation does not say."""
        return self._clause("Default").rstrip(".")

    @property
    def kohya(self) -> tuple[str, ...]:
        """Names in kohya's sd-scripts."""
        return _names(self._clause("kohya"))

    @property
    def ai_toolkit(self) -> tuple[str, ...]:
        """Names in ai-toolkit."""
        return _names(self._clause("ai-toolkit"))

    def _clause(self, name: str) -> str:
        parts = re.split(r"(?:^| )(Default|kohya|ai-toolkit): ", self.text)
        return dict(zip(parts[1::2], parts[2::2], strict=True)).get(name, "")


@functools.cache
def group_models() -> Mapping[str, type[BaseModel]]:
    """The pydantic model of each group, in the order of the project."""
    return {name: model for name in Project.model_fields if (model := _group_model(name)) is not None}


@functools.cache
def field_rows() -> Mapping[str, FieldRow]:
    """All settings by `group.field`, in the order of the project."""
    rows = [_row("", "name", Project)]
    for group, model in group_models().items():
        rows += [_row(group, name, model) for name in model.model_fields]
    return {row.path: row for row in rows}


def is_neutral(model: type[BaseModel], name: str) -> bool:
    """Tell whether a field is kept out of all keys."""
    extra = model.model_fields[name].json_schema_extra
    return isinstance(extra, dict) and extra.get("affects_result") is False


def is_keyed_if_set(model: type[BaseModel], name: str) -> bool:
    """Tell whether keys hold a field only where it has another value than its default."""
    extra = model.model_fields[name].json_schema_extra
    return isinstance(extra, dict) and extra.get("keyed_if_set") is True


def _names(clause: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([\w.]+)`", clause))


def describe(schema: Mapping[str, JSON]) -> str:
    """Put the JSON schema of a field into words: type, range and choices."""
    if "anyOf" in schema:
        parts = [describe(part) for part in schema["anyOf"] if part.get("type") != "null"]
        nothing = ["nothing (`null`)"] if len(parts) < len(schema["anyOf"]) else []
        return " or ".join([*parts, *nothing])
    if "enum" in schema or "const" in schema:
        choices = schema.get("enum", [schema.get("const")])
        return "one of " * (len(choices) > 1) + ", ".join(f"`{choice}`" for choice in choices)
    if schema.get("type") == "array":
        return _describe_list(schema)
    if schema.get("format") == "path":
        return "a path"
    return _KINDS.get(str(schema.get("type")), "a value") + _describe_range(schema)


_KINDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "`true` or `false`",
    "string": "text",
    "object": "a group of settings",
}


_LOW = {"minimum": "from", "exclusiveMinimum": "above"}
_HIGH = {"maximum": "to", "exclusiveMaximum": "to below"}


def _describe_list(schema: Mapping[str, JSON]) -> str:
    items = schema.get("prefixItems")
    if items:
        return f"a list of {len(items)}, each {describe(items[0])}"
    return f"a list, each {describe(schema.get('items', {}))}"


def _describe_range(schema: Mapping[str, JSON]) -> str:
    """Write the bounds: ` from 0 to below 1`."""
    lows = [f" {word} {_number(schema[key])}" for key, word in _LOW.items() if key in schema]
    highs = [f" {word} {_number(schema[key])}" for key, word in _HIGH.items() if key in schema]
    return "".join(lows + highs)


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


def _group_model(name: str) -> type[BaseModel] | None:
    annotation = Project.model_fields[name].annotation
    inner = getattr(annotation, "__args__", (annotation,))[0]
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None


def _row(group: str, name: str, model: type[BaseModel]) -> FieldRow:
    info = model.model_fields[name]
    schema = _schema(model)["properties"][name]
    missing = info.default is PydanticUndefined
    text = " ".join((info.description or "").split())
    wanted = _NAMES if not group else describe(schema)
    return FieldRow(group, name, wanted, REQUIRED if missing else info.default, text, is_neutral(model, name))


_NAMES = "letters, digits, `_`, `.` and `-`, at most 100, beginning with a letter or digit"


@functools.cache
def _schema(model: type[BaseModel]) -> Mapping[str, JSON]:
    return model.model_json_schema()
