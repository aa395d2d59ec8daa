"""The settings that the training loop reads."""

from __future__ import annotations

from dataclasses import dataclass

from trainer_core.config.groups import (
    AdapterConfig,
    AdapterOptionsConfig,
    LoggingConfig,
    LossConfig,
    NoiseConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from trainer_core.config.reads import StageSettings


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
