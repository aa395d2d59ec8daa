"""Settings and folders of edit pairs that cannot work: told before anything runs, with the way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.control_family import edit_family, make_pairs, use
from tests.projects import make_project
from trainer_core.errors import ConfigError


def required() -> Any:
    return edit_family(most=1, required=True)


def optional() -> Any:
    return edit_family(most=1)


FINDINGS: list[tuple[Callable[[], Any], tuple[str, ...], str]] = [
    (
        required,
        ("datasets.0.control_path=null",),
        "datasets.0.control_path: is missing, but Edit FLUX.1 edits pictures",
    ),
    (optional, ("datasets.0.control_path=[controls, base]",), "names 2 folders, but Edit FLUX.1 takes 1"),
    (optional, ("datasets.0.control_path=nowhere",), "there is no folder"),
    (optional, ("datasets.0.control_path=pictures",), "is the dataset's own folder"),
    (optional, ("sample.prompts=[a, b]", "sample.control_paths=[controls/000.png]"), "has 1 entries for 2 prompts"),
    (optional, ("sample.prompts=[a]", "sample.control_paths=[nothing.png]"), "there is no file"),
    (
        optional,
        ("sample.prompts=[a]", "sample.control_paths=[[controls/000.png, controls/001.png]]"),
        "names 2 pictures for one prompt, but Edit FLUX.1 takes 1",
    ),
    (required, ("sample.prompts=[a]",), "sample.control_paths: is missing for some prompts"),
    (required, ("gate.other_prompts=[a]",), "gate.control_paths: is missing for some prompts"),
]


@pytest.mark.parametrize(("family", "overrides", "message"), FINDINGS, ids=[message[:40] for *_, message in FINDINGS])
def test_settings_that_cannot_work_are_told_before_anything_runs(
    family: Callable[[], Any],
    overrides: tuple[str, ...],
    message: str,
    tmp_path: Path,
    tiny_bases: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, family())
    project = make_pairs(tmp_path / "project", tiny_bases["flux1"])
    project.config.write_text(project.config.read_text().replace("prompts: [a small picture],", ""))
    monkeypatch.chdir(project.folder)
    project.plan()
    with pytest.raises(ConfigError) as caught:
        project.plan(*overrides)
    assert message in str(caught.value)


def test_a_picture_without_its_control_picture_stops_a_family_that_needs_it(
    tmp_path: Path, tiny_bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, required())
    project = make_pairs(tmp_path / "project", tiny_bases["flux1"])
    project.config.write_text(project.config.read_text().replace("prompts: [a small picture],", ""))
    (project.folder / "controls" / "001.png").unlink()
    with pytest.raises(ConfigError, match=r"1 picture\(s\) have no control picture: 001.png"):
        project.plan()


def test_a_family_without_control_pictures_refuses_a_control_folder(
    tmp_path: Path, tiny_bases: dict[str, Path]
) -> None:
    project = make_project(tmp_path / "project", tiny_bases["sd15"])
    (project.folder / "controls").mkdir()
    override = f"datasets.0.control_path={project.folder / 'controls'}"
    with pytest.raises(ConfigError, match="Stable Diffusion 1.5 takes no control pictures"):
        project.plan(override)
