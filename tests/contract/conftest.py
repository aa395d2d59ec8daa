"""Tiny models of every registered family, built once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.models import MODELS
from tests.contract.support import Tiny, open_tiny


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a model's tiny pipeline; read only."""
    root, built = tmp_path_factory.mktemp("tiny"), dict[str, Path]()

    def folder(name: str) -> Path:
        if name not in built:
            built[name] = MODELS[name].build(root / name)
        return built[name]

    return folder


@pytest.fixture(scope="session")
def open_family(tiny_folder: Callable[[str], Path]) -> Callable[[str], Tiny]:
    """Return a family's tiny model, loaded in float32 once a session."""
    loaded = dict[str, Tiny]()

    def get(name: str) -> Tiny:
        if name not in loaded:
            loaded[name] = open_tiny(name, tiny_folder(name))
        return loaded[name]

    return get


@pytest.fixture(params=sorted(MODELS))
def tiny(request: pytest.FixtureRequest, open_family: Callable[[str], Tiny]) -> Tiny:
    """Each model of each family in turn."""
    return open_family(request.param)
