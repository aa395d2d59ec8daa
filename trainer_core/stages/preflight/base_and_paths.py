"""What is missing: datasets, the base model, files that settings name; and settings that the base model cannot take."""

from __future__ import annotations

import re

from trainer_core.config.project import Project
from trainer_core.errors import ModelError
from trainer_core.stages.project.session import Session
from trainer_core.types import Finding


def path_findings(project: Project) -> list[Finding]:
    """Return a finding for each folder or file of datasets and gate that does not exist."""
    findings: list[Finding] = []
    for position, dataset in enumerate(project.datasets):
        if not dataset.path.is_dir():
            message = f"there is no folder {dataset.path}."
            findings.append(Finding("error", f"datasets.{position}.path", message, "Give the folder of the pictures."))
    gate = project.gate
    if gate.judge is not None and not gate.judge.is_file():
        fix = "Name a Python file with a function `score(picture, prompt)`."
        findings.append(Finding("error", "gate.judge", f"there is no file {gate.judge}.", fix))
    if gate.clip_path is not None and not (gate.clip_path / "config.json").is_file():
        fix = "Give a folder with a CLIP model and its processor in transformers format."
        findings.append(Finding("error", "gate.clip_path", f"{gate.clip_path} holds no model.", fix))
    return findings


def base_findings(session: Session) -> list[Finding]:
    """Return why the base model cannot be opened."""
    try:
        _ = session.workspace.source
    except ModelError as error:
        return [Finding("error", error.field, str(error).removeprefix(f"{error.field}: "), "")]
    return []


def init_from_findings(project: Project) -> list[Finding]:
    """Return what is wrong with `adapter.init_from` before it is read."""
    path = project.adapter.init_from
    if path is None or (path.is_file() and path.suffix.lower() == ".safetensors"):
        return []
    return [Finding("error", "adapter.init_from", f"{path} is no .safetensors file.", "Name a LoRA file.")]


def target_findings(session: Session) -> list[Finding]:
    """Return what is wrong with `adapter.targets`: neither a preset of the family nor a regular expression."""
    targets, presets = session.project.adapter.targets, session.workspace.family.spec.targets
    try:
        re.compile(presets.get(targets, targets))
    except re.error as error:
        message = f"{targets!r} is neither a preset nor a regex ({error})."
        return [Finding("error", "adapter.targets", message, f"Use one of {', '.join(presets)}.")]
    return []


def precision_findings(session: Session) -> list[Finding]:
    """Return why the machine cannot train in `train.precision`."""
    if session.workspace.profile.device == "cpu" and session.project.train.precision == "fp16":
        message = "fp16 training needs a GPU: CPUs have no fp16 arithmetic to speak of."
        return [Finding("error", "train.precision", message, "Use bf16, fp32 or auto.")]
    return []
