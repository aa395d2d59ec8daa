"""Fixtures and settings that every layer of tests shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The time of one example says nothing on a machine that is shared; CI draws the same examples every time.
settings.register_profile("project", deadline=None, max_examples=60)
settings.register_profile("ci", settings.get_profile("project"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "project"))

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
os.environ.pop("LORA_ASSETS_HOME", None)
# Tiny models gain nothing from a second thread, and tests run beside each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny base model of each family; read only: `make_project` copies it."""
    from tests.tiny import BUILDERS, build

    root = tmp_path_factory.mktemp("bases")
    return {family: build(family, root / family) for family in BUILDERS}


@pytest.fixture(scope="session")
def finished_sd15(tmp_path_factory: pytest.TempPathFactory, tiny_bases: dict[str, Path]) -> Path:
    """A tiny SD1.5 project whose stages all ran; read only: copy it with `TinyProject.copy`."""
    from tests.projects import make_project

    project = make_project(tmp_path_factory.mktemp("finished") / "project", tiny_bases["sd15"])
    project.run()
    return project.folder
