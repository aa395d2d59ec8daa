"""The settings that `lora_checkpoint` reads: those that decide the weights, and those that describe the files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from trainer_core.config.groups import ExportConfig, SaveConfig, TextConfig
from trainer_core.config.reads import GroupPart, KeyedBy
from trainer_core.data.epoch.held_out import EvaluationPlan, plan_evaluation
from trainer_core.data.epoch.run_length import RunLength
from trainer_core.stages.group_parts import CaptionDropout, Resolution
from trainer_core.stages.stage import StageContext
from trainer_core.train.trainer_settings import TrainerSettings


@dataclass(frozen=True)
class SampleEvery(GroupPart):
    """When pictures of the run are wanted, of the group `sample`."""

    every: int


@dataclass(frozen=True)
class SampleSteps(SampleEvery):
    """The same, counted in steps and in epochs."""

    every_epochs: float


@dataclass(frozen=True)
class TrainingHardware(GroupPart):
    """What a run may use, of the group `hardware`."""

    num_processes: int
    threads: int
    resident_cache_mib: int
    compile: Literal["auto", "off", "blocks"]
    attention: Literal["auto", "native", "cudnn", "flash"]
    tf32: Literal["auto", "on", "off"]
    lora: Literal["auto", "peft"]


@dataclass(frozen=True)
class TrainedCaption(CaptionDropout):
    """Of the group `caption`."""

    trigger_word: str


@dataclass(frozen=True)
class DatasetTriggerWord(GroupPart):
    """Of each of `datasets`."""

    trigger_word: str | None


@dataclass(frozen=True)
class TagSeparator(GroupPart):
    """Of the group `tags`."""

    separator: str


@dataclass(frozen=True)
class ModelPath(GroupPart):
    """Of the group `model`."""

    path: Path


@dataclass(frozen=True)
class RunSettings(TrainerSettings):
    """Settings that decide the weights."""

    sample: SampleEvery
    caption: CaptionDropout
    hardware: TrainingHardware


@dataclass(frozen=True)
class DescribedSettings(RunSettings):
    """Settings that a file's lineage holds."""

    export: ExportConfig


@dataclass(frozen=True)
class LoraSettings(DescribedSettings):
    """All that `lora_checkpoint` reads: further settings decide how a LoRA is written and described."""

    name: str
    bucket: Resolution
    sample: SampleSteps
    caption: TrainedCaption
    datasets: tuple[DatasetTriggerWord, ...]
    tags: TagSeparator
    save: SaveConfig
    text: Annotated[TextConfig, KeyedBy("the data version of cached_text_embeddings")]
    model: Annotated[ModelPath, KeyedBy("`base_name` among the inputs")]


LoraContext = StageContext[LoraSettings]


def run_length(context: LoraContext) -> RunLength:
    """Return how long the run is.

    Raises:
        ConfigError: the dataset cannot be trained on.
    """
    return context.workspace.length(context.settings.train, context.settings.hardware.num_processes)


def evaluation_plan(context: LoraContext) -> EvaluationPlan:
    """Return what is measured of the held-out samples during the run.

    Raises:
        ConfigError: the dataset cannot be trained on.
    """
    return plan_evaluation(context.settings.train, run_length(context).steps, context.workspace.manifest.samples)
