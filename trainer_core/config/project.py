"""A project: one YAML file, all its groups."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainer_core.config.groups import (
    AdapterConfig,
    AdapterOptionsConfig,
    AugmentConfig,
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
    MemoryConfig,
    ModelConfig,
    NoiseConfig,
    OptimizerConfig,
    SampleConfig,
    SaveConfig,
    ScheduleConfig,
    TagsConfig,
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
    augment: AugmentConfig = AugmentConfig()
    """Differences between draws of a picture."""
    caption: CaptionConfig = CaptionConfig()
    """Captions."""
    tags: TagsConfig = TagsConfig()
    """Differences between draws of a caption."""
    latents: LatentsConfig = LatentsConfig()
    """VAE encoding."""
    text: TextConfig = TextConfig()
    """Text encoding."""
    adapter: AdapterConfig = AdapterConfig()
    """The adapter."""
    adapter_options: AdapterOptionsConfig = AdapterOptionsConfig()
    """What only some adapters have."""
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
    save: SaveConfig = SaveConfig()
    """Files on the way."""
    hardware: HardwareConfig = HardwareConfig()
    """Hardware."""
    memory: MemoryConfig = MemoryConfig()
    """Memory."""
    logging: LoggingConfig = LoggingConfig()
    """Logging."""
