from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.projects import TinyProject
from trainer_core import run
from trainer_core.export.safetensors_file import read_metadata
from trainer_core.families import with_spec
from trainer_core.stages.preflight.findings import project_findings
from trainer_core.stages.publishing.lora_names import same_base
from trainer_core.types import Finding


def _findings(project: TinyProject, *overrides: str) -> list[Finding]:
    """What is said of a family of which ComfyUI reads nothing."""
    session = run.open_session(project.config, overrides)
    try:
        spec = session.workspace.family.spec
        family = with_spec(session.workspace.family, replace(spec, lora=replace(spec.lora, comfyui=None)))
        vars(session.workspace.base)["family"] = family
        return [finding for finding in project_findings(session) if finding.field == "export.formats"]
    finally:
        session.close()


@pytest.mark.parametrize(
    ("formats", "levels"), [("diffusers", []), ("diffusers, comfyui", ["info"]), ("comfyui", ["error"])]
)
def test_a_format_that_a_family_lacks_is_told_beforehand(
    finished_sd15: Path, tmp_path: Path, formats: str, levels: list[str]
) -> None:
    found = _findings(TinyProject(finished_sd15).copy(tmp_path / "project"), f"export.formats=[{formats}]")
    assert [finding.level for finding in found] == levels


def test_a_base_that_was_renamed_is_the_same_base() -> None:
    inputs = {"weights": {"unet": "1"}, "precision": "fp32", "family": "sd15"}
    assert same_base(inputs, {**inputs, "base_name": "renamed"})
    assert not same_base(inputs, {**inputs, "weights": {"unet": "2"}})


def test_another_name_of_project_or_base_writes_the_files_again_and_trains_nothing(
    finished_sd15: Path, tmp_path: Path
) -> None:
    project = TinyProject(finished_sd15).copy(tmp_path / "project")
    (project.folder / "base").rename(project.folder / "other")
    results = project.run(f"model.path={project.folder / 'other'}", until="lora_checkpoint")
    assert (results["lora_checkpoint"].action, results["lora_checkpoint"].items_computed) == ("computed", 0)
    assert read_metadata(project.lora)["ss_sd_model_name"] == "other"
