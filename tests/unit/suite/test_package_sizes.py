"""No package holds too many modules."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MOST_MODULES = 14
"""Modules of one package, `__init__` not counted. More are hard to take in at once."""


def packages() -> list[Path]:
    return sorted(path.parent for top in ("trainer_core", "lora_assets") for path in (ROOT / top).rglob("__init__.py"))


@pytest.mark.parametrize("package", packages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_package_has_few_modules(package: Path) -> None:
    modules = [path.stem for path in package.glob("*.py") if path.stem != "__init__"]
    assert len(modules) <= MOST_MODULES, f"split {package.name} by what its modules do: {sorted(modules)}"
