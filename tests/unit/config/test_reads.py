from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_core.config.fields import FieldRow, field_rows, group_models
from trainer_core.config.groups import BlockConfig, CaptionConfig, DatasetConfig, ModelConfig, TextConfig, TrainConfig
from trainer_core.config.project import Project
from trainer_core.config.reads import (
    GroupPart,
    KeyedBy,
    StageSettings,
    UndeclaredRead,
    declared_settings,
    read_settings,
    settings_key,
    slice_key,
)

PROJECT = Project(
    name="cat",
    model=ModelConfig(family="sd15", path=Path("/base")),
    datasets=(DatasetConfig(path=Path("/data/cats")), DatasetConfig(path=Path("/data/dogs"), repeats=3)),
)
ROWS = list(field_rows().values())
READS = [row.path for row in ROWS] + list(group_models())

# Another valid value for every setting: of the numbers, one that no default has.
OTHER: dict[str, Any] = {
    "train.profile": {"from": 2, "steps": 3},
    "name": "dog",
    "model.family": "sdxl",
    "model.path": Path("/other"),
    "model.config_path": Path("/other"),
    "model.vae_path": Path("/other/ae.safetensors"),
    "model.text_encoder_paths": (Path("/other/clip_l.safetensors"),),
    "model.revision": "main",
    "model.allow_pickle": True,
    "datasets.path": Path("/else/cats"),
    "datasets.name": "renamed",
    "datasets.layout": "kohya",
    "datasets.trigger_word": "sks",
    "datasets.control_path": (Path("/else/controls"),),
    "sample.control_paths": ((Path("/else/a.png"),), (Path("/else/b.png"), Path("/else/c.png"))),
    "gate.control_paths": ((Path("/else/a.png"),),),
    "caption.extensions": (".tags",),
    "caption.missing": "empty",
    "caption.multiline": "whole",
    "optimizer.betas": (0.8, 0.99),
    "schedule.name": "cosine",
    "noise.timestep_sampling": "uniform",
    "sample.prompts": ("a cat",),
    "export.dtype": "fp32",
    "export.formats": ("kohya",),
    "export.metadata": False,
    "bucket.resolution": 768,
    "bucket.upscale": False,
    "train.gradient_checkpointing": True,
    "sample.quantise": "nf4",
    "memory.base": "nf4",
    "memory.base_modules": "blocks",
    "memory.compute": "w8a8",
    "memory.blocks_to_swap": 7,
    "memory.on_oom": "stop",
    "hardware.compile": "blocks",
    "hardware.attention": "cudnn",
    "hardware.tf32": "on",
    "hardware.lora": "peft",
    "datasets.held_out": 0.25,
    "adapter.dropout": 0.25,
    "adapter.rank_dropout": 0.25,
    "adapter.module_dropout": 0.25,
    "adapter.type": "loha",
    "adapter.blocks": {"mid.*": BlockConfig(rank=4)},
    "adapter.text_encoders": ("text_encoder",),
    "adapter.init_from": Path("/else/first.safetensors"),
    "datasets.mask_path": Path("/else/masks"),
    "datasets.resolutions": (512, 768),
    "datasets.class_tokens": "cat",
    "bucket.table": "sdxl_sizes",
    "augment.crop": "random",
    "augment.crop_scale": 1.5,
    "caption.variants": 32,
    "text.clip_tokens": 150,
    "text.cache": "never",
    "optimizer.text_encoder_lr": (0.25,),
    "optimizer.args": {"momentum": 0.5},
    "optimizer.implementation": "loop",
    "noise.prediction": "v_prediction",
    "noise.shift": "resolution",
    "noise.multires_discount": 0.5,
    "loss.type": "huber",
    "loss.huber_schedule": "constant",
    "train.epochs": 2.0,
    "train.steps": 77,
    "sample.prompt_file": Path("/else/prompts.txt"),
    "save.output_name": "other",
    "logging.wandb": "offline",
    "train.select": "last",
    "sample.strengths": (1.0,),
    "gate.judge": Path("/else/judge.py"),
    "gate.clip_path": Path("/else/clip"),
    "gate.concept_prompts": ("a zorbling",),
    "gate.other_prompts": ("a cat",),
    "optimizer.eps": 1e-3,
    "optimizer.weight_decay": 0.25,
    **{f"{group}.precision": "fp16" for group in ("latents", "text", "train")},
}


def other(row: FieldRow) -> Any:
    if row.path in OTHER:
        return OTHER[row.path]
    if isinstance(row.default, bool):
        return not row.default
    return {str: "something", float: 0.75, int: 8}[type(row.default)]


def changed(row: FieldRow) -> Project:
    if not row.group:
        return PROJECT.model_copy(update={row.name: other(row)})
    group = getattr(PROJECT, row.group)
    if isinstance(group, tuple):
        items = (group[0].model_copy(update={row.name: other(row)}), *group[1:])
        return PROJECT.model_copy(update={row.group: items})
    return PROJECT.model_copy(update={row.group: group.model_copy(update={row.name: other(row)})})


def test_every_changed_value_is_another_and_valid() -> None:
    for row in ROWS:
        assert changed(row) != PROJECT, row.path
        Project.model_validate(changed(row).model_dump())


@given(st.lists(st.sampled_from(READS), max_size=6), st.sampled_from(ROWS))
def test_a_key_moves_exactly_when_a_declared_field_that_counts_moves(reads: list[str], row: FieldRow) -> None:
    declared = row.path in reads or (row.group or row.name) in reads
    moved = slice_key(changed(row), reads) != slice_key(PROJECT, reads)
    assert moved == (declared and not row.neutral)


@given(st.lists(st.sampled_from(READS), max_size=6))
def test_a_slice_key_is_json_and_knows_no_order_of_reads(reads: list[str]) -> None:
    key = slice_key(PROJECT, reads)
    assert json.loads(json.dumps(key, allow_nan=False)) == key
    assert slice_key(PROJECT, list(reversed(reads))) == key


def test_neutral_fields_are_the_known_ones() -> None:
    assert {row.path for row in ROWS if row.neutral} == {
        "model.path",
        "model.config_path",
        "model.vae_path",
        "model.text_encoder_paths",
        "model.revision",
        "model.allow_pickle",
        "datasets.path",
        "datasets.control_path",
        "sample.control_paths",
        "sample.quantise",
        "gate.control_paths",
        "gate.judge",
        "gate.clip_path",
        "gate.min_concept_score",
        "gate.max_following_loss",
        "gate.max_held_out_rise",
        "latents.batch_size",
        "text.batch_size",
        "train.checkpoint_every",
        "train.gradient_checkpointing",
        "hardware.threads",
        "train.keep_last",
        "train.profile",
        "hardware.profile",
        "hardware.decode_threads",
        "hardware.resident_cache_mib",
        "hardware.compile",
        "hardware.attention",
        "hardware.tf32",
        "hardware.lora",
        "memory.blocks_to_swap",
        "memory.micro_batch",
        "memory.offload_activations",
        "memory.budget_gib",
        "memory.on_oom",
        "logging.every",
        "adapter.init_from",
        "datasets.mask_path",
        "sample.prompt_file",
        "save.max_age_days",
        "save.disk_budget_gib",
        "save.output_name",
        "logging.tensorboard",
        "logging.wandb",
        "logging.wandb_project",
        "logging.wandb_run",
    }


def test_naming_a_dataset_like_its_folder_changes_no_key() -> None:
    named = PROJECT.datasets[0].model_copy(update={"name": "cats"})
    project = PROJECT.model_copy(update={"datasets": (named, PROJECT.datasets[1])})
    assert slice_key(project, ["datasets"]) == slice_key(PROJECT, ["datasets"])
    assert slice_key(PROJECT, ["datasets.name"]) == {"datasets": [{"name": "cats"}, {"name": "dogs"}]}


@dataclass(frozen=True)
class Step(GroupPart):
    step: int


@dataclass(frozen=True)
class Folder(GroupPart):
    path: Path
    repeats: int


@dataclass(frozen=True)
class Declared(StageSettings):
    name: str
    train: TrainConfig
    bucket: Step
    datasets: tuple[Folder, ...]
    text: Annotated[TextConfig, KeyedBy("something else")]


@dataclass(frozen=True)
class More(Declared):
    caption: CaptionConfig


def test_a_declaration_gives_what_it_names() -> None:
    settings = read_settings(Declared, PROJECT)
    assert settings.name == "cat"
    assert settings.train is PROJECT.train
    assert settings.bucket == Step(64)
    assert settings.datasets == (Folder(Path("/data/cats"), 1), Folder(Path("/data/dogs"), 3))


def test_a_declaration_lists_its_settings_and_which_of_them_enter_the_key_by_value() -> None:
    keyed = ("name", "train", "bucket.step", "datasets.path", "datasets.repeats")
    assert declared_settings(Declared) == (*keyed, "text")
    assert declared_settings(Declared, keyed_only=True) == keyed


def test_the_key_of_settings_is_that_of_the_declared_part_of_the_project() -> None:
    settings = read_settings(More, PROJECT)
    assert settings_key(settings) == slice_key(PROJECT, declared_settings(More, keyed_only=True))
    assert settings_key(settings, Declared) == slice_key(PROJECT, declared_settings(Declared, keyed_only=True))
    assert "text" not in settings_key(settings)


@pytest.mark.parametrize(
    ("read", "named"),
    [
        (lambda settings: settings.optimizer.lr, "Declared does not declare the setting `optimizer`"),
        (lambda settings: settings.bucket.resolution, "Step does not declare the setting `resolution`"),
        (lambda settings: settings.datasets[0].label, "Folder does not declare the setting `label`"),
        (lambda settings: getattr(settings, "optimizer", None), "`optimizer`"),
        (lambda settings: hasattr(settings.bucket, "resolution"), "`resolution`"),
    ],
)
def test_an_undeclared_read_names_declaration_and_setting(read, named: str) -> None:
    with pytest.raises(UndeclaredRead, match=named):
        read(read_settings(Declared, PROJECT))


@dataclass(frozen=True)
class NoGroup(StageSettings):
    nothing: str


@dataclass(frozen=True)
class NoField(StageSettings):
    train: Step


@pytest.mark.parametrize("declaration", [NoGroup, NoField])
def test_a_declaration_of_what_does_not_exist_is_our_bug(declaration: type[StageSettings]) -> None:
    with pytest.raises(AssertionError, match="is not a setting"):
        declared_settings(declaration)


def test_a_group_and_one_of_its_fields_is_the_whole_group() -> None:
    assert slice_key(PROJECT, ["train.steps", "train"]) == slice_key(PROJECT, ["train"])
