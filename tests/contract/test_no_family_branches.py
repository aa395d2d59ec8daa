"""Only a family's own file knows its name: everywhere else the spec is asked."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lora_assets
import trainer_core
from trainer_core.families import family_names, get_family, models

FAMILIES = Path(models.__file__).parent
PACKAGES = (Path(trainer_core.__file__).parent, Path(lora_assets.__file__).parent)
NAMERS = (FAMILIES.parent, FAMILIES.parent.parent / "importers")
"""Importers translate the names that other trainers have for models."""
CONTRACT = Path(__file__).parent
GENERIC = ("support", "table", "test_family_numbers", "whole_run")
LIMIT = 400


def outside_modules() -> list[Path]:
    """Every module of the project that is no family, and the contract tests that run for all families."""
    modules = [
        path
        for package in PACKAGES
        for path in package.rglob("*.py")
        if not any(namer in path.parents for namer in NAMERS)
    ]
    generic = [path for path in CONTRACT.glob("*.py") if path.name.startswith(GENERIC)]
    return sorted(modules + generic)


def names_and_variants() -> set[str]:
    """Return all that a branch could compare with: names of families, variants and pipelines."""
    specs = [get_family(name).spec for name in family_names()]
    every = [one for spec in specs for one in (spec, *spec.variants)]
    return {text for spec in every for text in (spec.name, spec.variant, spec.pipeline) if text}


def branches(source: str, names: set[str]) -> Iterator[tuple[int, str]]:
    """Yield line and name of each comparison, match case, `startswith` or lookup that takes a family's name."""
    for node in ast.walk(ast.parse(source)):
        for inner in _compared(node):
            for found in ast.walk(inner):
                if isinstance(found, ast.Constant) and found.value in names:
                    yield found.lineno, str(found.value)


def _compared(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.Compare):
        return [node.left, *node.comparators]
    if isinstance(node, ast.match_case):
        return [node.pattern]
    if isinstance(node, ast.Dict):
        return [key for key in node.keys if key is not None]
    if isinstance(node, ast.Subscript):
        return [node.slice]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TAKE_A_NAME:
        return list(node.args)
    return []


TAKE_A_NAME = ("startswith", "endswith", "get", "__eq__", "__contains__")


@pytest.mark.parametrize("path", outside_modules(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_module_outside_the_families_asks_for_a_name(path: Path) -> None:
    found = [f"{path}:{line}: {name}" for line, name in branches(path.read_text("utf-8"), names_and_variants())]
    assert not found, f"ask the spec, not the name: {found}"


@pytest.mark.parametrize(
    "source",
    [
        'if family == "sd15": pass',
        'if "sd15" != spec.name: pass',
        'flow = spec.name in ("flux1", "sd15")',
        'flow = spec.name not in {"sd15"}',
        'while not (name == "sd15" or ready): pass',
        'match name:\n    case "sd15":\n        pass',
        'match name:\n    case "flux1" | "sd15":\n        pass',
        'match spec:\n    case FamilySpec(name="sd15"):\n        pass',
        'if pipeline.startswith("sd15"): pass',
        'shift = {"sd15": 1.0, "flux1": 3.0}[name]',
        'shift = SHIFTS.get("sd15")',
        'shift = SHIFTS["sd15"]',
        'if type(pipe).__name__ == "StableDiffusionPipeline": pass',
    ],
)
def test_every_way_to_ask_for_a_name_is_seen(source: str) -> None:
    assert "sd15" in names_and_variants()
    assert list(branches(source, names_and_variants()))


@pytest.mark.parametrize(
    "source",
    ['"""sd15 is a family."""', 'example = "sd15"', 'if spec.prediction == "flow": pass', 'run("sd15")'],
)
def test_a_name_that_decides_nothing_is_let_be(source: str) -> None:
    assert not list(branches(source, names_and_variants()))


@pytest.mark.parametrize("path", sorted(FAMILIES.glob("*.py")), ids=lambda path: path.name)
def test_a_family_is_one_file_of_a_readable_length(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= LIMIT
