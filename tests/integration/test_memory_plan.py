"""The memory plan of a real project: `memory.base: auto`, and `plan --for` where only configs are there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.projects import TinyProject
from trainer_core.cli.main import app


@pytest.fixture
def project(finished_sd15: Path, tmp_path: Path) -> TinyProject:
    return TinyProject(finished_sd15).copy(tmp_path / "project")


def test_a_plan_for_another_machine_needs_the_configs_alone(project: TinyProject, tmp_path: Path) -> None:
    base = tmp_path / "configs"
    shutil.copytree(project.base, base, ignore=shutil.ignore_patterns("*.safetensors", "vocab*", "merges*"))
    again = ["plan", str(project.config), "--set", f"model.path={base}", "--for", "12GiB", "--json"]
    first = CliRunner().invoke(app, again)
    assert first.exit_code == 0, first.output
    memory = json.loads(first.stdout.splitlines()[-1])["memory"]
    assert memory["fits"] is True
    assert 11 < memory["budget_gib"] < 12
    names = [stage["name"] for stage in memory["stages"]]
    assert names[:3] == ["encode latents", "encode text", "train"]
    for stage in memory["stages"]:
        assert sum(stage["parts"].values()) == pytest.approx(stage["peak_gib"], abs=0.01)


def test_a_machine_that_is_none_is_named(project: TinyProject) -> None:
    found = CliRunner().invoke(app, ["plan", str(project.config), "--for", "toaster"])
    assert found.exit_code == 2
    assert "toaster" in found.output
