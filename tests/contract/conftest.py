"""Tiny models of every registered family, loaded once a worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.models import MODELS
from tests.contract.support import Tiny, open_tiny, shrink_control_pictures


@pytest.fixture(scope="session")
def tiny_folder(tiny_bases: dict[str, Path]) -> Callable[[str], Path]:
    """Return the folder of a model's tiny pipeline; read only."""
    return lambda name: tiny_bases[name]


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
def tiny(request: pytest.FixtureRequest, open_family: Callable[[str], Tiny], monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """Each model of each family in turn."""
    if request.param.startswith("qwen_image_edit"):
        shrink_control_pictures(monkeypatch)
    return open_family(request.param)
