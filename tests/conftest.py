"""Fixtures and settings that every layer of tests shares."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.projects import TinyProject, make_project
from tests.shared_builds import SharedBuilds

# The time of one example says nothing on a machine that is shared; CI draws the same examples every time.
settings.register_profile("project", deadline=None, max_examples=60)
settings.register_profile("ci", settings.get_profile("project"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "project"))

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
os.environ.pop("LORA_ASSETS_HOME", None)
# Files must outlive killed processes here, never a power cut: waiting for the disk would show nothing.
os.fsync = lambda fd: None
# Tiny models gain nothing from a second thread, and tests run beside each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


NUMERIC = (
    "tests/contract/test_exports",
    "tests/contract/test_family_",
    "tests/contract/test_long_captions",
    "tests/contract/test_optimizers",
    "tests/contract/test_traps_",
    "tests/integration/test_gate",
    "tests/integration/test_lora_file",
    "tests/integration/test_noise_and_loss",
    "tests/integration/test_optimizers",
    "tests/integration/test_processes",
    "tests/integration/test_resume",
    "tests/integration/test_saving",
    "tests/integration/test_selection",
    "tests/unit/adapters/",
    "tests/unit/diffusion/",
    "tests/unit/export/",
    "tests/unit/families/",
    "tests/unit/hardware/",
    "tests/unit/sampling/",
    "tests/unit/train/",
)
"""How the files begin whose tests compare numbers or weights."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(NUMERIC):
            item.add_marker("numeric")
    # Workers take whole files in this order: none of the longest may be left for the end, when the others have nothing.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish(session: pytest.Session) -> None:
    # Imported modules stay: without them, each collection of garbage visits a tenth of the objects.
    gc.collect()
    gc.freeze()


class TinyBases(dict[str, Path]):
    """Model name -> folder of its tiny pipeline, built when it is first asked for."""

    def __init__(self, builds: SharedBuilds) -> None:
        super().__init__()
        self.builds = builds

    def __missing__(self, name: str) -> Path:
        from tests.contract.models import MODELS

        self[name] = self.builds.folder(f"base-{name}", MODELS[name].build)
        return self[name]


@pytest.fixture
def small_control_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let models that make a megapixel of each control picture do with less."""
    from tests.contract.support import shrink_control_pictures

    shrink_control_pictures(monkeypatch)


@pytest.fixture(scope="session")
def shared_builds(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> SharedBuilds:
    """Folders that all workers share."""
    return SharedBuilds.of(pytestconfig, tmp_path_factory)


@pytest.fixture(scope="session", autouse=True)
def shared_builds_stay_unchanged(request: pytest.FixtureRequest, shared_builds: SharedBuilds) -> object:
    """Fail the last test of a worker if something wrote into a folder that all share."""
    yield
    assert not (changes := shared_builds.changed()), f"tests wrote into what all share, instead of a copy: {changes}"


@pytest.fixture(scope="session")
def tiny_bases(shared_builds: SharedBuilds) -> dict[str, Path]:
    """A tiny base of each model of `tests.contract.models`; read only: `make_project` copies it."""
    return TinyBases(shared_builds)


@pytest.fixture
def new_project(tmp_path: Path, tiny_bases: dict[str, Path]) -> Callable[[str], TinyProject]:
    """Return a maker of a project of a model in this test's folder; nothing of it is computed yet."""
    from tests.contract.models import MODELS

    return lambda model: make_project(tmp_path / "project", tiny_bases[model], MODELS[model].family)


@pytest.fixture(scope="session")
def finished_project(shared_builds: SharedBuilds, tiny_bases: dict[str, Path]) -> Callable[[str], Path]:
    """Return the folder of a tiny project of a model, whose stages all ran; read only: `TinyProject.copy` copies it."""
    from tests.contract.models import MODELS

    def finished(model: str) -> Path:
        base = tiny_bases[model]
        return shared_builds.folder(
            f"finished-{model}", lambda folder: make_project(folder, base, MODELS[model].family).run()
        )

    return finished


@pytest.fixture(scope="session")
def finished_sd15(finished_project: Callable[[str], Path]) -> Path:
    """A tiny SD1.5 project whose stages all ran; read only: copy it with `TinyProject.copy`."""
    return finished_project("sd15")
