"""Commands are run in an environment of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli.support import Project, make_project


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(os.environ)
    monkeypatch.delenv("LORA_ASSETS_HOME", raising=False)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project without a base model, whose root is the current folder."""
    made = make_project(tmp_path, tmp_path / "no-base")
    monkeypatch.chdir(tmp_path)
    return made
