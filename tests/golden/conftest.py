"""Comparison with a reviewed file: `make golden` writes it anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def same() -> Callable[[str, Path], None]:
    """Return a function that compares a text with a file, or writes the file when GOLDEN=1."""

    def compare(text: str, path: Path) -> None:
        if os.environ.get("GOLDEN") == "1":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.read_text(encoding="utf-8") == text, f"{path.name} changed: run `make golden` and read the diff"

    return compare
