"""What is wrong with the settings of pictures, before a picture is read."""

from __future__ import annotations

import re
from collections.abc import Iterator

from trainer_core.config.groups import DatasetConfig
from trainer_core.config.project import Project
from trainer_core.data.pictures.multi_resolution import resolution_findings
from trainer_core.types import Finding


def picture_findings(project: Project) -> Iterator[Finding]:
    """Yield findings about masks, groups and resolutions of each dataset."""
    for position, dataset in enumerate(project.datasets):
        name = f"datasets.{position}"
        if dataset.mask_path is not None and not dataset.mask_path.is_dir():
            fix = "Give the folder of the masks."
            yield Finding("error", f"{name}.mask_path", f"there is no folder {dataset.mask_path}.", fix)
        yield from _group(name, dataset)
        yield from resolution_findings(f"{name}.resolutions", dataset.resolutions, project.bucket)


def _group(name: str, dataset: DatasetConfig) -> Iterator[Finding]:
    if dataset.held_out_group in ("", "folder"):
        return
    try:
        re.compile(dataset.held_out_group)
    except re.error as error:
        message = f"{dataset.held_out_group!r} is neither `folder` nor a regex ({error})."
        yield Finding("error", f"{name}.held_out_group", message, "Correct the regex.")
