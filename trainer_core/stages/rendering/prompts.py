"""What is rendered: prompts, and for edit families the pictures that each of them edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_core.config.groups import SampleConfig
from trainer_core.errors import DatasetError
from trainer_core.sampling.prompt_file import PromptLine
from trainer_core.stages.project.prompt_lines import prompt_controls, prompt_lines
from trainer_core.stages.project.verified_pictures import read_picture
from trainer_core.stages.project.workspace import Workspace
from trainer_core.types import FileStat, Sample

if TYPE_CHECKING:
    from PIL import Image

_OWN_PROMPTS = 4
"""Captions taken as prompts when the project names none."""
Files = tuple[tuple[Path, str], ...]
"""(path, SHA-256) of control pictures, in order."""


@dataclass(frozen=True)
class Prompts:
    """Prompts with their control pictures."""

    texts: tuple[str, ...]
    controls: tuple[Files, ...]
    """One entry a prompt, empty where it edits nothing."""
    rows: tuple[PromptLine, ...] = ()
    """What differs for each prompt, where they come from a file."""

    @property
    def key(self) -> list[list[str]]:
        """SHA-256 of the control pictures of each prompt; empty where no prompt has any."""
        hashes = [[sha256 for _, sha256 in files] for files in self.controls]
        return hashes if any(hashes) else []

    def pictures(self) -> tuple[tuple[Image.Image, ...], ...]:
        """Decode the control pictures of each prompt; empty where no prompt has any.

        Raises:
            DatasetError: a picture changed since it was looked at, or cannot be decoded.
        """
        return tuple(tuple(read_picture(*file) for file in files) for files in self.controls) if self.key else ()


def project_prompts(sample: SampleConfig, workspace: Workspace) -> Prompts:
    """Return what a project renders: the prompts of its file, else its own, else captions.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong.
        DatasetError: a control picture is not there, or cannot be read.
    """
    if not (lines := prompt_lines(sample)):
        return chosen_prompts(sample.prompts, sample.control_paths, workspace)
    prompts = own_prompts([line.prompt for line in lines], prompt_controls(sample, lines), workspace)
    return replace(prompts, rows=lines)


def chosen_prompts(own: Sequence[str], paths: Sequence[Sequence[Path]], workspace: Workspace) -> Prompts:
    """Return a project's own prompts, else captions: of held-out pictures first, as the LoRA has not seen those.

    Captions of regularisation pictures, which do not show the concept, come last.

    Args:
        own: prompts of the project.
        paths: control pictures of each of them; none at all where it edits nothing. Captions bring their own.
        workspace: its samples, and the store that remembers hashes.
    """
    if own:
        return own_prompts(own, paths, workspace)

    def rank(sample: Sample) -> tuple[bool, bool, str]:
        return sample.regularisation, sample.split == "train", sample.id

    chosen: dict[tuple[str, ...], Sample] = {}
    for sample in sorted(workspace.manifest.samples, key=rank):
        chosen.setdefault((sample.caption, *(one.picture for one in sample.controls)), sample)
        if len(chosen) == _OWN_PROMPTS:
            break
    controls = (tuple((one.path, one.picture) for one in sample.controls) for sample in chosen.values())
    return Prompts(tuple(sample.caption for sample in chosen.values()), tuple(controls))


def own_prompts(texts: Sequence[str], paths: Sequence[Sequence[Path]], workspace: Workspace) -> Prompts:
    """Return prompts with the control pictures at `paths`, hashed where they are not known.

    Raises:
        DatasetError: a control picture is not there, or cannot be read.
    """
    if not any(paths):
        return Prompts(tuple(texts), ((),) * len(texts))
    hashes = _hashes(workspace, {path for of_prompt in paths for path in of_prompt})
    controls = tuple(tuple((path, hashes[path]) for path in of_prompt) for of_prompt in paths)
    return Prompts(tuple(texts), controls + ((),) * (len(texts) - len(controls)))


def _hashes(workspace: Workspace, paths: set[Path]) -> Mapping[Path, str]:
    stats = {str(path): FileStat.of_path(path) for path in paths if path.is_file()}
    hashes = workspace.store.index.file_hashes(stats)
    if missing := sorted(str(path) for path in paths if str(path) not in hashes):
        raise DatasetError(f"control pictures that cannot be read: {', '.join(missing)}. Correct control_paths.")
    return {path: hashes[str(path)] for path in paths}
