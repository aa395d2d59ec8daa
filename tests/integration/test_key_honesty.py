"""A stage's key changes with exactly the settings that its code reads.

Every read of a setting is recorded while the stages work on a tiny project, under a few configurations that switch
features on. The records are compared with what the stages declare, and with what changes their keys.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_type_hints

import pytest

from tests.projects import TinyProject, draw_picture, make_project
from tests.unit.config.test_reads import ROWS, other
from trainer_core import run
from trainer_core.config import reads
from trainer_core.config.fields import FieldRow, group_models
from trainer_core.config.groups import Group
from trainer_core.config.project import Project
from trainer_core.config.reads import GroupPart, read_settings, settings_key
from trainer_core.errors import ConfigError, DatasetError
from trainer_core.stages import STAGES
from trainer_core.stages.project.session import Session
from trainer_core.stages.stage import Stage
from trainer_core.stages.training import training_run

BASE_MODEL = {"model.family", "model.path", "model.config_path", "model.revision", "model.allow_pickle"}
"""What the base model is and where it lies: it is in keys by its content (`fingerprints`) and its family's identity."""

CONFIGURATIONS: Mapping[str, tuple[str, ...]] = {
    "plain": (),
    "kept and measured": (
        *("train.steps=2", "save.every=1", "save.keep_last=1", "save.keep_best=1", "sample.every=1"),
        *("noise.offset=0.1", "gate.concept_prompts=[a cat]", "gate.other_prompts=[a dog]", "gate.pictures=1"),
    ),
    "features": (
        *("caption.trigger_word=zorb", "loss.preservation_weight=1", "loss.preservation_class=thing"),
        *("loss.min_snr_gamma=5", "loss.soft_min_snr=true", "schedule.name=warmup_stable_decay"),
        *("augment.crop=random", "augment.variants=2"),
    ),
    "live text": (
        *("text.cache=never", "train.epochs=1", "train.steps=null", "caption.dropout=0.5"),
        "schedule.name=polynomial",
    ),
    "restarts": ("schedule.name=cosine_with_restarts",),
}
"""Name -> settings that switch features on."""

UNREAD: Mapping[str, Mapping[str, str]] = {
    "validated_dataset": dict.fromkeys(
        ("caption.dropout", "caption.dropout_every_n_epochs"),
        "the group is declared whole, and the stage's key is made from its result, not from settings",
    ),
    "lora_checkpoint": {"loss.preservation_class": "the class captions come with the samples"},
    "samples": dict.fromkeys(
        ("sample.every", "sample.every_epochs"),
        "they decide which snapshots the LoRA's result holds, which its data version does not tell",
    ),
}
"""Stage -> declared setting that no configuration reads -> why it is declared."""


@dataclass
class Recorder:
    """Which settings each stage read."""

    stage: str = ""
    """The stage that works now; empty for none."""
    reads: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def note(self, group: str, name: str) -> None:
        if self.stage:
            self.reads[self.stage].add(f"{group}.{name}" if group else name)

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        before, self.stage = self.stage, stage
        try:
            yield
        finally:
            self.stage = before


def _leave_out_the_memory_plan(recorder: Recorder, patch: pytest.MonkeyPatch) -> None:
    """The plan asks for everything that takes memory, and decides neutral settings alone."""
    plan = training_run.plan_of_workspace

    def unrecorded(*arguments: Any) -> Any:
        with recorder.during(""):
            return plan(*arguments)

    patch.setattr(training_run, "plan_of_workspace", unrecorded)


def _part_groups() -> dict[type, str]:
    """Return declared part of a group -> the group's name, for every stage."""
    return {
        kind: group
        for stage in STAGES.values()
        for base in stage.settings.__mro__
        if issubclass(base, reads.StageSettings) and base is not reads.StageSettings
        for group, entry in reads._entries(base).items()  # pyright: ignore[reportPrivateUsage]
        if entry.part is not None
        for kind in entry.part.__mro__
        if issubclass(kind, GroupPart) and kind is not GroupPart
    }


@contextmanager
def recording() -> Iterator[Recorder]:
    """Record every read of a setting that is done by a stage's own functions."""
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        _record_groups(recorder, patch)
        _record_declarations(recorder, patch)
        _leave_out_the_memory_plan(recorder, patch)
        for name, stage in STAGES.items():
            patch.setitem(STAGES, name, _watched(stage, recorder))
        yield recorder


def _record_groups(recorder: Recorder, patch: pytest.MonkeyPatch) -> None:
    """Record reads of whole groups, field by field; a group that is dumped is read whole."""
    groups: dict[type, str] = {model: name for name, model in group_models().items()}
    read, dump, group_key = Group.__getattribute__, Group.model_dump, reads._group_key  # pyright: ignore[reportPrivateUsage]

    def recorded_read(self: Any, name: str) -> Any:
        if (group := groups.get(type(self))) is not None and name in type(self).model_fields:
            recorder.note(group, name)
        return read(self, name)

    def recorded_dump(self: Group, **options: Any) -> Any:
        for name in type(self).model_fields:
            recorder.note(groups.get(type(self), ""), name)
        return dump(self, **options)

    def unrecorded_key(*arguments: Any) -> Any:
        # What is declared is not yet read because it is put into the key.
        with recorder.during(""):
            return group_key(*arguments)

    patch.setattr(Group, "__getattribute__", recorded_read)
    patch.setattr(Group, "model_dump", recorded_dump)
    patch.setattr(reads, "_group_key", unrecorded_key)


def _record_declarations(recorder: Recorder, patch: pytest.MonkeyPatch) -> None:
    """Record reads of the project's name, and of the fields of groups that are declared in part."""
    parts = _part_groups()
    read_part, read_stage = GroupPart.__getattribute__, reads.StageSettings.__getattribute__

    def recorded_part(self: Any, name: str) -> Any:
        if not name.startswith("_") and name in {each.name for each in fields(type(self))}:
            recorder.note(parts[type(self)], name)
        return read_part(self, name)

    def recorded_stage(self: Any, name: str) -> Any:
        if name == "name":
            recorder.note("", "name")
        return read_stage(self, name)

    patch.setattr(GroupPart, "__getattribute__", recorded_part)
    patch.setattr(reads.StageSettings, "__getattribute__", recorded_stage)


def _watched(stage: Stage[Any], recorder: Recorder) -> Stage[Any]:
    def watch(function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(context: Any) -> Any:
            with recorder.during(stage.name):
                return function(context)

        return watched

    watched = {name: watch(getattr(stage, name)) for name in ("run", "inputs", "total")}
    optional = {name: watch(value) for name in ("items", "data_version") if (value := getattr(stage, name)) is not None}
    return replace(stage, **watched, **optional)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> TinyProject:
    from tests.tiny import build

    folder = tmp_path_factory.mktemp("honesty")
    project = make_project(folder / "project", build("sd15", folder / "base"), pictures=5, steps=1)
    (project.pictures / "004.txt").unlink()
    (project.folder / "masks").mkdir()
    for picture in project.pictures.glob("*.png"):
        draw_picture(project.folder / "masks" / picture.name, seed=9, size=(64, 64))
    with project.config.open("a") as config:
        config.write("caption: {missing: empty}\n")
    return project


@pytest.fixture(scope="module")
def recorded(project: TinyProject) -> Mapping[str, set[str]]:
    """Stage -> the settings that it read under any of the configurations."""
    with recording() as recorder:
        for overrides in CONFIGURATIONS.values():
            masks = (
                [f"datasets.0.mask_path={project.folder / 'masks'}"] if overrides is CONFIGURATIONS["features"] else []
            )
            session = run.open_session(project.config, [*overrides, *masks])
            # The base model is opened by the workspace, whichever stage asks first.
            _ = session.workspace.family, session.workspace.fingerprints
            run.run_until(session)
            session.close()
    return recorder.reads


def _fields(declared: tuple[str, ...]) -> set[str]:
    """Return declared settings as `group.field`, whole groups as all their fields."""
    models = group_models()
    return set(
        itertools.chain.from_iterable(
            [f"{name}.{each}" for each in models[name].model_fields] if name in models else [name] for name in declared
        )
    )


@pytest.mark.parametrize("name", list(STAGES))
def test_a_stage_reads_nothing_that_it_does_not_declare(name: str, recorded: Mapping[str, set[str]]) -> None:
    assert recorded[name] - BASE_MODEL <= _fields(STAGES[name].reads)


def _changed(project: Project, row: FieldRow) -> Project:
    if not row.group:
        return project.model_copy(update={row.name: other(row)})
    group = getattr(project, row.group)
    if isinstance(group, tuple):
        items = (group[0].model_copy(update={row.name: other(row)}), *group[1:])
        return project.model_copy(update={row.group: items})
    return project.model_copy(update={row.group: group.model_copy(update={row.name: other(row)})})


@pytest.mark.parametrize("name", [name for name, stage in STAGES.items() if stage.data_version is None])
def test_a_key_changes_exactly_with_the_settings_that_count_of_those_declared(name: str, project: TinyProject) -> None:
    stage, session = STAGES[name], run.open_session(project.config)
    try:
        before, counted = settings_key(read_settings(stage.settings, session.project)), _fields(stage.keyed)
        for row in ROWS:
            changed = settings_key(read_settings(stage.settings, _changed(session.project, row))) != before
            assert changed == (row.path in counted and not row.neutral), row.path
    finally:
        session.close()


@pytest.mark.parametrize("name", list(STAGES))
def test_a_declared_setting_is_read(name: str, recorded: Mapping[str, set[str]]) -> None:
    neutral = {row.path for row in ROWS if row.neutral}
    unread = _fields(STAGES[name].keyed) - recorded[name] - neutral
    assert unread == set(UNREAD.get(name, {})), f"{name} declares, but does not read: {', '.join(sorted(unread))}"


def _recipes(session: Session) -> Mapping[str, Any]:
    """Return the recipes of the stages whose result is known beforehand: they are made from it, not from settings."""
    known = (stage for stage in STAGES.values() if stage.data_version is not None)
    return {stage.name: stage.recipe(stage.context(session, {}), {}) for stage in known}


def test_a_result_that_is_known_beforehand_changes_only_with_declared_settings(project: TinyProject) -> None:
    first = run.open_session(project.config)
    before = _recipes(first)
    declared = {
        name: _fields(tuple(itertools.chain(*(STAGES[each].reads for each in run.ancestors(name))))) for name in before
    }
    moved: dict[str, set[str]] = defaultdict(set)
    for row in ROWS:
        if row.neutral or row.group == "model":
            continue
        session = Session.open(_changed(first.project, row), project.home)
        try:
            after = _recipes(session)
        except (ConfigError, DatasetError):
            continue  # no sample is left, or a file that is named does not exist
        finally:
            session.close()
        for name in before:
            if after[name] != before[name]:
                moved[name].add(row.path)
    first.close()
    for name, settings in moved.items():
        assert settings <= declared[name], name
    assert {"caption.prefix", "bucket.resolution", "datasets.repeats"} <= moved["validated_dataset"]
    assert "latents.precision" in moved["cached_latents"]
    assert {"text.clip_skip", "caption.prefix"} <= moved["cached_text_embeddings"]


@pytest.mark.parametrize("name", ["samples", "metrics"])
def test_settings_of_text_enter_a_key_where_prompts_are_encoded_by_them(name: str, project: TinyProject) -> None:
    recipes = []
    for overrides in ((), ("text.clip_skip=1",), ("text.batch_size=3",)):
        session = run.open_session(project.config, overrides)
        stage = STAGES[name]
        recipes.append(stage.inputs(stage.context(session, {})))
        session.close()
    assert recipes[1] != recipes[0]
    assert recipes[2] == recipes[0]


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_a_declaration_has_the_types_of_the_settings(stage: Stage[Any]) -> None:
    models = group_models()
    for group, entry in reads._entries(stage.settings).items():  # pyright: ignore[reportPrivateUsage]
        for name, hint in get_type_hints(entry.part).items() if entry.part else ():
            assert hint == get_type_hints(models[group])[name], f"{stage.name}: {group}.{name}"
