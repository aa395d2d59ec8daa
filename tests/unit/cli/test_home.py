"""Commands say which folder holds store and outputs, so that another one is not taken for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.projects import TinyProject
from tests.unit.cli.support import call


@pytest.fixture
def finished(finished_sd15: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyProject:
    project = TinyProject(finished_sd15).copy(tmp_path / "project")
    monkeypatch.chdir(project.folder)
    return project


def test_plan_says_where_home_is(finished: TinyProject) -> None:
    assert (
        f"Home: {finished.home} (the default for tiny.yaml; LORA_ASSETS_HOME sets another)"
        in call("plan", "tiny.yaml").stderr
    )


def test_a_file_elsewhere_has_another_home_and_plan_names_both(finished: TinyProject, tmp_path: Path) -> None:
    elsewhere = finished.folder / "elsewhere" / "tiny.yaml"
    elsewhere.parent.mkdir()
    shutil.copy(finished.config, elsewhere)
    for name in ("base", "pictures"):
        (elsewhere.parent / name).symlink_to(finished.folder / name)
    result = call("plan", elsewhere)
    assert f"Home: {elsewhere.parent / '.lora-assets'}" in result.stderr
    assert f"not {finished.home})" in result.stderr


def test_the_variable_is_named_where_it_chose(
    finished: TinyProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORA_ASSETS_HOME", str(tmp_path / "other"))
    assert (
        f"Home: {tmp_path / 'other'} (set by LORA_ASSETS_HOME; not {finished.home})" in call("plan", "tiny.yaml").stderr
    )
    result = call("sample", "tiny.yaml", "--prompt", "a cat")
    assert result.exit_code == 1
    assert f"there is no LoRA in {tmp_path / 'other'} yet" in result.stderr
