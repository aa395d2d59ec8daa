"""The prompts of `sample.prompt_file`, with the control pictures that each of them edits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer_core.config.groups import SampleConfig
from trainer_core.sampling.prompt_file import PromptLine, read_prompt_file


def prompt_lines(sample: SampleConfig) -> tuple[PromptLine, ...]:
    """Return the prompts of the file; none without a file.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong.
    """
    return () if sample.prompt_file is None else read_prompt_file(sample.prompt_file)


def prompt_controls(sample: SampleConfig, lines: Sequence[PromptLine]) -> tuple[tuple[Path, ...], ...]:
    """Return the control pictures of each prompt of the file: its own, else those of `sample.control_paths`."""
    if sample.prompt_file is None or not any(line.controls for line in lines):
        return sample.control_paths
    folder = sample.prompt_file.parent
    return tuple(tuple(folder / name for name in line.controls) for line in lines)
