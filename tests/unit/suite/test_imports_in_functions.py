"""Imports stand at the top of a file. In a function only what makes a command that computes nothing slow may stand.

Two kinds are allowed: heavy libraries, and our own work modules, which import such libraries at their top.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MOST = 120
HEAVY_LIBRARIES = {
    "PIL",
    "accelerate",
    "bitsandbytes",
    "cv2",
    "diffusers",
    "fastsafetensors",
    "filelock",
    "huggingface_hub",
    "importlib.metadata",
    "lycoris",
    "matplotlib",
    "numpy",
    "peft",
    "pyarrow",
    "pynvml",
    "rich",
    "safetensors",
    "torch._dynamo",
    "torch.utils.checkpoint",
    "transformers",
    "wandb",
}
"""Libraries that take 9 ms or more to import, or that import torch. torch itself comes from `trainer_core.lazy`."""
WORK_MODULES = {
    "trainer_core.cli.picture_change",
    "trainer_core.data.pictures.decode",
    "trainer_core.data.pictures.mask_pixels",
    "trainer_core.data.reports.contact_sheet",
    "trainer_core.data.reports.tables",
    "trainer_core.export.convert",
    "trainer_core.families.storage.assembly",
    "trainer_core.export.readers.read",
    "trainer_core.stages.examining.examine_lora",
    "trainer_core.stages.caching.overlap",
    "trainer_core.stages.publishing.lora_files",
    "trainer_core.stages.rendering.comparison",
    "trainer_core.stages.rendering.render_samples",
    "trainer_core.stages.training.lr_finder",
    "trainer_core.stages.training.train_and_export",
    "trainer_core.train.optim.state",
    "trainer_core.train.optim.state_tree",
    "trainer_core.train.run_state.checkpoint",
}
"""Our modules that do the work of a stage or a command with such libraries."""


def imported_in_functions(source: str) -> Iterator[tuple[int, str]]:
    """(line, module) of each import inside a function; `from package import module` counts as the module."""
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    found = {id(node): node for function in functions for node in ast.walk(function)}
    for node in found.values():
        if isinstance(node, ast.Import):
            yield from ((node.lineno, each.name) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{each.name}") for each in node.names)


def is_allowed(modules: list[str]) -> bool:
    """An import is allowed by its module, a parent of it, or the module that it takes from a package."""
    return any(
        name in WORK_MODULES or name == heavy or name.startswith(f"{heavy}.")
        for name in modules
        for heavy in HEAVY_LIBRARIES
    )


@functools.cache
def imports() -> list[tuple[str, list[str]]]:
    """(file and line, modules) of every import inside a function of the two packages."""
    found: dict[str, list[str]] = {}
    for package in ("trainer_core", "lora_assets"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for line, module in imported_in_functions(path.read_text("utf-8")):
                found.setdefault(f"{path.relative_to(ROOT)}:{line}", []).append(module)
    return list(found.items())


def test_only_heavy_libraries_and_work_modules_are_imported_inside_functions() -> None:
    wrong = [f"{where}: {modules[0]}" for where, modules in imports() if not is_allowed(modules)]
    assert not wrong, "move these imports to the top of the file"


def test_few_imports_are_inside_functions() -> None:
    assert len(imports()) < MOST


def test_every_work_module_that_is_allowed_is_imported_inside_some_function() -> None:
    used = {module for _, modules in imports() for module in modules}
    assert used >= WORK_MODULES, "remove it from WORK_MODULES"


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("import json", False),
        ("import torch", False),
        ("from torch import nn", False),
        ("from trainer_core.config.load import load_project", False),
        ("from diffusers.utils import logging", True),
        ("from trainer_core.stages.training import lr_finder", True),
    ],
)
def test_what_counts_as_heavy(line: str, allowed: bool) -> None:
    modules = [module for _, module in imported_in_functions(f"def work():\n    {line}\n")]
    assert is_allowed(modules) is allowed
