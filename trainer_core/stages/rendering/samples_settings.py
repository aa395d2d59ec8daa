"""What the stage `samples` reads: its settings, and the columns that follow from them. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from trainer_core.config.groups import LoggingConfig, SampleConfig, TextConfig
from trainer_core.config.reads import GroupPart, KeyedBy, StageSettings
from trainer_core.stages.group_parts import BaseStorage, Resolution, Threads
from trainer_core.stages.stage import StageContext

NAME = "samples"
GRID = "grid.png"


@dataclass(frozen=True)
class SchedulerNoise(GroupPart):
    """What the noise of training changes of sampling, of the group `noise`."""

    prediction: Literal["auto", "epsilon", "v_prediction"]
    zero_terminal_snr: bool


@dataclass(frozen=True)
class SamplesSettings(StageSettings):
    """The settings that decide what is rendered, and how."""

    sample: SampleConfig
    bucket: Resolution
    noise: SchedulerNoise
    hardware: Threads
    logging: LoggingConfig
    memory: Annotated[BaseStorage, KeyedBy("`base_storage` among the inputs, where the base is not dense")]
    text: Annotated[TextConfig, KeyedBy("`encoded prompts` among the inputs")]


SamplesContext = StageContext[SamplesSettings]


def strengths(context: SamplesContext) -> dict[str, float]:
    """Return heading -> strength of the LoRA for each of its columns."""
    return {f"LoRA {str(float(one)).removesuffix('.0')}": one for one in context.settings.sample.strengths}
