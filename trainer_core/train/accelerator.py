"""One Accelerator from a profile and a precision."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from trainer_core.errors import ConfigError
from trainer_core.hardware.profiles import HardwareProfile, PrecisionName
from trainer_core.types import Finding

_MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def make_accelerator(profile: HardwareProfile, precision: PrecisionName, accumulation: int) -> Accelerator:
    """Return the Accelerator of this process.

    Raises:
        ConfigError: fp16 on a CPU, or a GPU profile without a usable GPU.
    """
    if profile.device == "cpu" and precision == "fp16":
        message = "fp16 training needs a GPU: CPUs have no fp16 arithmetic to speak of."
        raise ConfigError([Finding("error", "train.precision", message, "Use bf16, fp32 or auto.")])
    if profile.device == "cuda" and not torch.cuda.is_available():
        message = f"profile {profile.name} needs CUDA, but torch {torch.__version__} sees no usable GPU."
        raise ConfigError([Finding("error", "hardware.profile", message, "Install the CUDA build, or set it to cpu.")])
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        # accelerate keeps one state a process, and refuses a second run in another precision.
        AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]
        GradientState._reset_state()  # pyright: ignore[reportPrivateUsage]
    return Accelerator(
        mixed_precision=_MIXED[precision],
        gradient_accumulation_steps=accumulation,
        cpu=profile.device == "cpu",
    )
