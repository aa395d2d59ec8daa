"""What is wrong with the settings of pictures, before a picture is read."""

from __future__ import annotations

import re
from collections.abc import Iterator

from trainer_core.config.groups import DatasetConfig
from trainer_core.config.project import Project
from trainer_core.data.resolutions import resolution_findings
from trainer_core.data.views import is_plain
from trainer_core.types import Finding


def picture_findings(project: Project) -> Iterator[Finding]:
    """Yield findings about masks, groups, resolutions, regularisation and views of each dataset."""
    for position, dataset in enumerate(project.datasets):
        name = f"datasets.{position}"
        if dataset.mask_path is not None and not dataset.mask_path.is_dir():
            fix = "Give the folder of the masks."
            yield Finding("error", f"{name}.mask_path", f"there is no folder {dataset.mask_path}.", fix)
        yield from _group(name, dataset)
        yield from resolution_findings(f"{name}.resolutions", dataset.resolutions, project.bucket)
        if dataset.control_path and not is_plain(project.augment):
            message = (
                "changes pictures from draw to draw, but not the control pictures, which would no longer fit them."
            )
            fix = f"Remove the `augment` settings, or {name}.control_path."
            yield Finding("error", "augment", message, fix)
    if all(dataset.regularisation for dataset in project.datasets):
        message = "is set for every dataset: there is no concept to learn."
        fix = "Add a dataset of the concept, or set it to false."
        yield Finding("error", "datasets.0.regularisation", message, fix)


def _group(name: str, dataset: DatasetConfig) -> Iterator[Finding]:
    if dataset.held_out_group in ("", "folder"):
        return
    try:
        re.compile(dataset.held_out_group)
    except re.error as error:
        message = f"{dataset.held_out_group!r} is neither `folder` nor a regex ({error})."
        yield Finding("error", f"{name}.held_out_group", message, "Correct the regex.")
