"""What is wrong with the settings of control pictures, before a picture is read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer_core.config.project import Project
from trainer_core.families.spec import FamilySpec
from trainer_core.types import Finding


def control_findings(project: Project, spec: FamilySpec) -> Iterator[Finding]:
    """Yield findings about `control_path`, `control_paths` and `bucket.control_resolution`."""
    yield from _datasets(project, spec)
    if project.bucket.control_resolution and spec.control is None:
        message = (
            f"is {project.bucket.control_resolution}, but {spec.title} takes no control pictures: it has no effect."
        )
        yield Finding("warning", "bucket.control_resolution", message, "Remove it.")
    gate = project.gate
    yield from _prompts("sample", project.sample.prompts, project.sample.control_paths, spec)
    yield from _prompts("gate", gate.concept_prompts + gate.other_prompts, gate.control_paths, spec)


def _datasets(project: Project, spec: FamilySpec) -> Iterator[Finding]:
    control = spec.control
    for position, dataset in enumerate(project.datasets):
        name, paths = f"datasets.{position}.control_path", dataset.control_path
        if paths and control is None:
            message = f"is set, but {spec.title} takes no control pictures."
            yield Finding("error", name, message, "Remove it, or choose a family that edits pictures.")
        elif control is not None and len(paths) > control.most:
            message = f"names {len(paths)} folders, but {spec.title} takes {control.most} control picture(s) a sample."
            yield Finding("error", name, message, f"Keep at most {control.most}.")
        elif control is not None and control.required and not paths:
            message = f"is missing, but {spec.title} edits pictures: it learns from pairs."
            yield Finding("error", name, message, "Name the folder of the pictures that the edits start from.")
        yield from _folders(name, dataset.path, paths)
    if control is not None and not control.required and not any(dataset.control_path for dataset in project.datasets):
        message = f"no dataset has control pictures, so {spec.title} learns from captions alone."
        yield Finding("info", "datasets.0.control_path", message, "Name the folder of control pictures to train edits.")


def _folders(name: str, dataset: Path, paths: Sequence[Path]) -> Iterator[Finding]:
    for path in paths:
        if not path.is_dir():
            fix = "Give the folder of the control pictures."
            yield Finding("error", name, f"there is no folder {path}.", fix)
        elif os.path.realpath(path) == os.path.realpath(dataset):
            message = f"{path} is the dataset's own folder, so each picture would be its own control picture."
            yield Finding("error", name, message, "Put the control pictures into a folder of their own.")
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        yield Finding("error", name, "names one folder twice.", "Name each folder once; each is a place of its own.")


def _prompts(
    group: str, prompts: Sequence[str], paths: Sequence[Sequence[Path]], spec: FamilySpec
) -> Iterator[Finding]:
    name, control = f"{group}.control_paths", spec.control
    if paths and control is None:
        yield Finding("error", name, f"is set, but {spec.title} takes no control pictures.", "Remove it.")
        return
    if paths and len(paths) != len(prompts):
        message = f"has {len(paths)} entries for {len(prompts)} prompts."
        yield Finding("error", name, message, "Give one entry a prompt: a file, a list of files, or [] for none.")
    for files in paths:
        if control is not None and len(files) > control.most:
            message = f"names {len(files)} pictures for one prompt, but {spec.title} takes {control.most}."
            yield Finding("error", name, message, f"Keep at most {control.most}.")
        for missing in (path for path in files if not path.is_file()):
            yield Finding("error", name, f"there is no file {missing}.", "Correct the path.")
    if control is not None and control.required and prompts and not (paths and all(paths)):
        message = f"is missing for some prompts, but {spec.title} edits pictures."
        yield Finding("error", name, message, "Name the picture that each prompt edits.")
