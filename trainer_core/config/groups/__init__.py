"""The settings of a project, one frozen group a topic. The text under a field is its documentation everywhere.

A field marked `NEUTRAL` changes how the work is done, never what comes out, so no key contains it. Paths are neutral
too: what lies at the path is hashed instead.
"""

from trainer_core.config.groups.base import (
    KEYED_IF_SET,
    NEUTRAL,
    Group,
    Paths,
    Precision,
    Probability,
)
from trainer_core.config.groups.data import (
    AugmentConfig,
    BucketConfig,
    CaptionConfig,
    DatasetConfig,
    LatentsConfig,
    ModelConfig,
    TagsConfig,
    TextConfig,
)
from trainer_core.config.groups.memory import MemoryConfig
from trainer_core.config.groups.output import (
    ExportConfig,
    GateConfig,
    HardwareConfig,
    LoggingConfig,
    SampleConfig,
    SaveConfig,
)
from trainer_core.config.groups.training import (
    AdapterConfig,
    AdapterOptionsConfig,
    BlockConfig,
    LossConfig,
    NoiseConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)

__all__ = [
    "AdapterConfig",
    "AdapterOptionsConfig",
    "AugmentConfig",
    "BlockConfig",
    "BucketConfig",
    "CaptionConfig",
    "DatasetConfig",
    "ExportConfig",
    "GateConfig",
    "Group",
    "HardwareConfig",
    "LatentsConfig",
    "LoggingConfig",
    "LossConfig",
    "MemoryConfig",
    "ModelConfig",
    "KEYED_IF_SET",
    "NEUTRAL",
    "NoiseConfig",
    "OptimizerConfig",
    "Paths",
    "Precision",
    "Probability",
    "SampleConfig",
    "SaveConfig",
    "ScheduleConfig",
    "TagsConfig",
    "TextConfig",
    "TrainConfig",
]
