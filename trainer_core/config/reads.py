"""What a stage may see of a project. Because it can see no more, its key cannot leave anything out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from trainer_core.config.fields import group_models, is_neutral
from trainer_core.config.groups import DatasetConfig
from trainer_core.config.project import Project
from trainer_core.types import JSON

if TYPE_CHECKING:
    from trainer_core.config import groups


class UndeclaredRead(AssertionError):
    """A stage touched a setting that it does not declare: its key would lie. Declare it and raise the stage's version.

    Not an AttributeError: `getattr(slice, name, default)` must not swallow it.
    """


class Slice:
    """The declared part of a project: `slice.train.steps`.

    Args:
        project: all settings.
        reads: `group` or `group.field` each; `datasets.field` declares that field of every dataset; `name` is a field
            of its own.
        stage: named in the error.
    """

    if TYPE_CHECKING:
        name: str
        model: groups.ModelConfig
        datasets: tuple[groups.DatasetConfig, ...]
        bucket: groups.BucketConfig
        augment: groups.AugmentConfig
        caption: groups.CaptionConfig
        tags: groups.TagsConfig
        latents: groups.LatentsConfig
        text: groups.TextConfig
        adapter: groups.AdapterConfig
        adapter_options: groups.AdapterOptionsConfig
        optimizer: groups.OptimizerConfig
        schedule: groups.ScheduleConfig
        noise: groups.NoiseConfig
        loss: groups.LossConfig
        train: groups.TrainConfig
        sample: groups.SampleConfig
        gate: groups.GateConfig
        export: groups.ExportConfig
        save: groups.SaveConfig
        hardware: groups.HardwareConfig
        logging: groups.LoggingConfig

    def __init__(self, project: Project, reads: Iterable[str], stage: str = "") -> None:
        self._project = project
        self._declared = _declared(tuple(reads))
        self._stage = stage

    def __getattr__(self, group: str) -> Any:
        if group.startswith("_"):
            raise AttributeError(group)
        if group not in Project.model_fields:
            raise AssertionError(f"a project has no group {group!r}")
        if group not in self._declared:
            raise UndeclaredRead(_undeclared(self._stage, group))
        value, fields = getattr(self._project, group), self._declared[group]
        if fields is None:
            return value
        if isinstance(value, tuple):
            return tuple(_Part(item, fields, group, self._stage) for item in value)
        return _Part(value, fields, group, self._stage)


class _Part:
    """Some fields of a group."""

    def __init__(self, group: BaseModel, fields: frozenset[str], name: str, stage: str) -> None:
        self._group, self._fields, self._name, self._stage = group, fields, name, stage

    def __getattr__(self, field: str) -> Any:
        if field.startswith("_"):
            raise AttributeError(field)
        # A dataset's label is its name, resolved.
        declared = "name" if field == "label" and isinstance(self._group, DatasetConfig) else field
        if declared not in self._fields:
            raise UndeclaredRead(_undeclared(self._stage, f"{self._name}.{field}"))
        return getattr(self._group, field)


def slice_key(project: Project, reads: Iterable[str]) -> dict[str, JSON]:
    """Return the declared settings as JSON, without the neutral ones: the part of a stage's key that a user writes.

    A dataset without a name counts under its folder's, so that naming it the same changes no key.
    """
    key: dict[str, JSON] = {}
    for group, fields in _declared(tuple(reads)).items():
        value = getattr(project, group)
        if isinstance(value, tuple):
            key[group] = [_group_key(item, fields) for item in value]
        else:
            key[group] = _group_key(value, fields) if isinstance(value, BaseModel) else value
    return key


def _group_key(group: BaseModel, fields: frozenset[str] | None) -> dict[str, JSON]:
    model = type(group)
    names = {name for name in model.model_fields if (fields is None or name in fields) and not is_neutral(model, name)}
    values = group.model_dump(mode="json", include=names)
    if isinstance(group, DatasetConfig) and "name" in values:
        values["name"] = group.label
    return values


def _declared(reads: tuple[str, ...]) -> Mapping[str, frozenset[str] | None]:
    """Group -> its declared fields, or None for the whole group."""
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


def _undeclared(stage: str, what: str) -> str:
    return f"stage {stage or '(unnamed)'} reads `{what}` without declaring it: add it to `reads`, or its key would lie"
