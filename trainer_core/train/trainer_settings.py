"""The settings that the training loop reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from trainer_core.config.groups import (
    AdapterConfig,
    AdapterOptionsConfig,
    LoggingConfig,
    LossConfig,
    MemoryConfig,
    NoiseConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from trainer_core.config.reads import KeyedBy, StageSettings


@dataclass(frozen=True)
class TrainerSettings(StageSettings):
    """Whole groups; a stage that trains declares more beside them."""

    adapter: AdapterConfig
    adapter_options: AdapterOptionsConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    noise: NoiseConfig
    loss: LossConfig
    train: TrainConfig
    logging: LoggingConfig
    memory: Annotated[MemoryConfig, KeyedBy("`base_storage` among the inputs, where the base is not dense")]
