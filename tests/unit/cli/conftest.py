"""A project to call commands on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.support import Project, make_project


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORA_ASSETS_HOME", raising=False)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project without a base model, whose root is the current folder."""
    made = make_project(tmp_path, tmp_path / "no-base")
    monkeypatch.chdir(tmp_path)
    return made
