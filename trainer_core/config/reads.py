"""Which settings a stage reads: declared once, as a type.

A stage declares its settings as a frozen dataclass: a field for each group that it reads whole, and for a group of
which it reads some fields a `GroupPart` with these fields alone.

    @dataclass(frozen=True)
    class Threads(GroupPart):
        threads: int

    @dataclass(frozen=True)
    class LatentsSettings(StageSettings):
        latents: LatentsConfig
        hardware: Threads

The stage receives an instance, so pyright refuses a read of anything else, and so does Python. The key of the stage's
result is made from the same declaration, so it cannot leave out what the stage reads.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from trainer_core.config.fields import group_models, is_keyed_if_set, is_neutral
from trainer_core.config.groups import DatasetConfig
from trainer_core.config.project import Project
from trainer_core.types import JSON


class UndeclaredRead(AssertionError):
    """A stage touched a setting that it does not declare: its key would lie. Declare it and raise the stage's version.

    Not an AttributeError: `getattr(settings, name, default)` must not swallow it.
    """


@dataclass(frozen=True)
class KeyedBy:
    """Marks a declared group whose values enter the stage's key by another way: `Annotated[TextConfig, KeyedBy(..)]`.

    For settings that count by what they lead to (the data version of an upstream result, a digest among the stage's
    inputs), so that a change without an effect computes nothing again.
    """

    what: str
    """The part of the key that changes with these settings."""


@dataclass(frozen=True)
class _Declaration:
    """Base of both kinds of declarations."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            message = f"{type(self).__name__} does not declare the setting `{name}`"
            raise UndeclaredRead(f"{message}: add it there, or the key of the stage's result would lie")


@dataclass(frozen=True)
class StageSettings(_Declaration):
    """Base of what a stage declares: fields are called like groups (or `name`)."""


@dataclass(frozen=True)
class GroupPart(_Declaration):
    """Base of the fields that are read of a group."""


Settings = TypeVar("Settings", bound=StageSettings)


@dataclass(frozen=True)
class _Entry:
    """What a declaration says of one group."""

    part: type[GroupPart] | None
    """None for the whole group."""
    keyed: bool


def declared_settings(declaration: type[StageSettings], keyed_only: bool = False) -> tuple[str, ...]:
    """Return the declared settings, `group` or `group.field` each.

    Args:
        declaration: what a stage declares.
        keyed_only: leave out groups that are marked `KeyedBy` something else.
    """
    reads: list[str] = []
    for group, entry in _entries(declaration).items():
        if entry.keyed or not keyed_only:
            reads += [group] if entry.part is None else [f"{group}.{field.name}" for field in fields(entry.part)]
    return tuple(reads)


def read_settings(declaration: type[Settings], project: Project) -> Settings:
    """Return the declared part of a project's settings."""
    values = {
        group: _part(getattr(project, group), entry.part) if entry.part else getattr(project, group)
        for group, entry in _entries(declaration).items()
    }
    return declaration(**values)


def settings_key(settings: StageSettings, declaration: type[StageSettings] | None = None) -> dict[str, JSON]:
    """Return what a key holds of a stage's settings: as JSON, without neutral fields and groups keyed by other ways.

    Args:
        settings: what the stage sees.
        declaration: a base of its type, where only those settings count.
    """
    return {
        group: _value_key(group, getattr(settings, group), entry.part)
        for group, entry in _entries(declaration or type(settings)).items()
        if entry.keyed
    }


def slice_key(project: Project, reads: Iterable[str]) -> dict[str, JSON]:
    """Return some settings of a project as JSON, without the neutral ones.

    A dataset without a name counts under its folder's, so that naming it the same changes no key.

    Args:
        project: all settings.
        reads: `group` or `group.field` each; `datasets.field` is that field of every dataset.
    """
    key: dict[str, JSON] = {}
    for group, names in _by_group(tuple(reads)).items():
        value = getattr(project, group)
        if isinstance(value, tuple):
            key[group] = [_group_key(item, names) for item in value]
        else:
            key[group] = _group_key(value, names) if isinstance(value, BaseModel) else value
    return key


def _part(value: Any, part: type[GroupPart]) -> Any:
    if isinstance(value, tuple):
        return tuple(_part(item, part) for item in value)
    return part(**{field.name: getattr(value, field.name) for field in fields(part)})


def _value_key(group: str, value: Any, part: type[GroupPart] | None) -> JSON:
    if isinstance(value, tuple):
        return [_value_key(group, item, part) for item in value]
    if part is None:
        return _group_key(value, None) if isinstance(value, BaseModel) else value
    names = frozenset(field.name for field in fields(part))
    model = group_models()[group]
    return _group_key(model.model_construct(**{name: getattr(value, name) for name in names}), names)


def _group_key(group: BaseModel, names: frozenset[str] | None) -> dict[str, JSON]:
    model = type(group)
    counted = {name for name in model.model_fields if (names is None or name in names) and not is_neutral(model, name)}
    counted -= {
        name
        for name in counted
        if is_keyed_if_set(model, name) and getattr(group, name) == model.model_fields[name].default
    }
    values = group.model_dump(mode="json", include=counted)
    if isinstance(group, DatasetConfig) and "name" in values:
        values["name"] = group.label
    return values


@functools.cache
def _entries(declaration: type[StageSettings]) -> Mapping[str, _Entry]:
    hints = get_type_hints(declaration, include_extras=True)
    entries = {field.name: _entry(hints[field.name]) for field in fields(declaration)}
    for group, entry in entries.items():
        for name in [""] if entry.part is None else [field.name for field in fields(entry.part)]:
            assert _exists(group, name), f"{declaration.__name__}: {group}.{name} is not a setting"
    return entries


def _entry(hint: Any) -> _Entry:
    marks = getattr(hint, "__metadata__", ())
    kind = get_args(hint)[0] if marks else hint
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    part = kind if isinstance(kind, type) and issubclass(kind, GroupPart) else None
    return _Entry(part, not any(isinstance(mark, KeyedBy) for mark in marks))


def _by_group(reads: tuple[str, ...]) -> Mapping[str, frozenset[str] | None]:
    """Group -> its fields, or None for the whole group."""
    declared: dict[str, frozenset[str] | None] = {}
    for entry in sorted(reads):
        group, _, field = entry.partition(".")
        assert _exists(group, field), f"{entry!r} is not a setting"
        if not field:
            declared[group] = None
        elif declared.get(group, frozenset()) is not None:
            declared[group] = (declared.get(group) or frozenset()) | {field}
    return declared


def _exists(group: str, field: str) -> bool:
    if group not in Project.model_fields:
        return False
    return not field or (group in group_models() and field in group_models()[group].model_fields)
