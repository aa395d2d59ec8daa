"""A project: one YAML file, all its groups."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainer_core.config.groups import (
    AdapterConfig,
    BucketConfig,
    CaptionConfig,
    DatasetConfig,
    ExportConfig,
    GateConfig,
    Group,
    HardwareConfig,
    LatentsConfig,
    LoggingConfig,
    LossConfig,
    ModelConfig,
    NoiseConfig,
    OptimizerConfig,
    SampleConfig,
    ScheduleConfig,
    TextConfig,
    TrainConfig,
)


class Project(Group):
    """Everything that decides what is trained and how."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
    """Name of the outputs folder and of the published file; letters, digits, `_`, `.` and `-`."""
    model: ModelConfig
    """The base model."""
    datasets: Annotated[tuple[DatasetConfig, ...], Field(min_length=1)]
    """The folders of pictures."""
    bucket: BucketConfig = BucketConfig()
    """Aspect-ratio buckets."""
    caption: CaptionConfig = CaptionConfig()
    """Captions."""
    latents: LatentsConfig = LatentsConfig()
    """VAE encoding."""
    text: TextConfig = TextConfig()
    """Text encoding."""
    adapter: AdapterConfig = AdapterConfig()
    """The adapter."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimizer."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The learning-rate schedule."""
    noise: NoiseConfig = NoiseConfig()
    """Noise and timesteps."""
    loss: LossConfig = LossConfig()
    """Loss weighting."""
    train: TrainConfig = TrainConfig()
    """The run."""
    sample: SampleConfig = SampleConfig()
    """Samples."""
    gate: GateConfig = GateConfig()
    """The examination of the finished LoRA."""
    export: ExportConfig = ExportConfig()
    """Export."""
    hardware: HardwareConfig = HardwareConfig()
    """Hardware."""
    logging: LoggingConfig = LoggingConfig()
    """Logging."""
