"""Every setting with its names elsewhere, its default and the tests that prove its effect.

`python -m tests.settings_table` writes docs/settings.md. A test says which settings it proves by
`@pytest.mark.setting("group.field", ...)`; the marks are read from the source, so nothing is imported.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from trainer_core.config.fields import REQUIRED, FieldRow, field_rows

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docs" / "settings.md"
INTRODUCTION = """\
# Every setting, by its names

Written by `make settings-table`: do not edit. What each does stands in [config.md](config.md). The tests named show its
effect, not that it is accepted; `lora-assets import` translates whole files of other trainers.
"""
HEADER = (
    "| Setting | kohya | ai-toolkit | Default | Where the default comes from | Shown by |\n|---|---|---|---|---|---|"
)
OFF = (None, False, "", 0, 0.0, (), [], {})
"""Defaults that explain themselves: nothing is done unless it is asked for."""


def proofs() -> dict[str, list[str]]:
    """Return setting -> `file::test` of the tests that are marked with it, in the order of files and lines."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, settings in _marked(ast.parse(path.read_text(encoding="utf-8"))):
            for setting in settings:
                found.setdefault(setting, []).append(f"{path.relative_to(ROOT / 'tests').as_posix()}::{name}")
    return found


def _marked(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """Yield the test functions of a module with the settings of their marks."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        settings = [name for mark in node.decorator_list for name in _settings(mark)]
        if settings:
            yield node.name, settings


def _settings(mark: ast.expr) -> list[str]:
    if not isinstance(mark, ast.Call) or ast.unparse(mark.func) != "pytest.mark.setting":
        return []
    return [str(argument.value) for argument in mark.args if isinstance(argument, ast.Constant)]


def source_of_default(row: FieldRow) -> str:
    """Say where a default comes from."""
    if row.default is REQUIRED:
        return "required"
    if row.default_source:
        return row.default_source
    if row.default == "auto":
        return "chosen for the family and the machine"
    if row.default in OFF:
        return "off, or the model's own"
    return ""


def table(shown: Mapping[str, list[str]]) -> str:
    """Return the page."""
    lines = [INTRODUCTION, HEADER]
    for path, row in field_rows().items():
        default = "" if row.default is REQUIRED else f"`{json.dumps(row.default, default=str)}`"
        cells = [f"`{path}`", _code(row.kohya), _code(row.ai_toolkit), default, source_of_default(row)]
        cells.append("<br>".join(f"`{test}`" for test in shown.get(path, [])[:3]))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _code(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    FILE.write_text(table(proofs()), encoding="utf-8")
