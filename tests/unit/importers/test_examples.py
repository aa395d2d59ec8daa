from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.importers.support import EXAMPLES, HERE, MAIN, import_example, project_of
from trainer_core.config.fields import field_rows
from trainer_core.config.load import dump_project, load_project
from trainer_core.importers.core.tool_config import load
from trainer_core.importers.docs import page
from trainer_core.importers.tools import TOOLS

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = HERE / "golden"
STRUCTURE = {
    *("config", "process", "datasets", "subsets", "general", "concepts", "samples", "directory", "train", "model"),
    *("network", "save", "sample", "ema_config", "optimizer_params", "network_kwargs", "logging", "meta"),
}
"""Names of groups, which are no keys of their own."""
DATASETS = {
    "kohya/sdxl_lora.toml": "kohya/sdxl_lora_dataset.toml",
    "onetrainer/sdxl_lora.json": "onetrainer/sdxl_concepts.json",
    "simpletuner/flux_config.json": "simpletuner/flux_backend.json",
    "simpletuner/qwen_edit_lokr.json": "simpletuner/edit_backend.json",
    "simpletuner/sdxl.env": "simpletuner/sdxl_backend.json",
    "diffusion-pipe/flux.toml": "diffusion-pipe/flux_dataset.toml",
}
"""Files that they name, whose keys are told as well."""


def same(text: str, path: Path) -> None:
    """Compare with a reviewed file; GOLDEN=1 writes it anew."""
    if os.environ.get("GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, f"{path.name} changed: GOLDEN=1, and read the diff"


def leaves(data: Any) -> Iterator[str]:
    """Names of all keys that hold a value, whatever they lie in."""
    if isinstance(data, dict):
        for key, value in data.items():
            if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
                yield from leaves(value)
            else:
                yield str(key)
    elif isinstance(data, list):
        for item in data:
            yield from leaves(item)


def test_there_are_examples_of_every_tool() -> None:
    counts = {tool: sum(name.startswith(f"{tool}/") for name in MAIN) for tool in TOOLS}
    assert len(MAIN) >= 20
    assert min(counts.values()) >= 3, counts


@pytest.mark.parametrize("name", MAIN)
def test_an_example_becomes_the_reviewed_yaml_and_report(name: str, tmp_path: Path) -> None:
    report = import_example(tmp_path, name)
    written = (tmp_path / "work" / report.output).read_text(encoding="utf-8")
    assert written == report.yaml
    stem = name.replace("/", "_").replace(".", "_")
    same(written, GOLDEN / f"{stem}.yaml")
    same(json.dumps(report.as_dict(), indent=1, ensure_ascii=False) + "\n", GOLDEN / f"{stem}.json")


@pytest.mark.parametrize("name", MAIN)
def test_an_imported_project_survives_load_dump_load(name: str, tmp_path: Path) -> None:
    project = project_of(tmp_path, import_example(tmp_path, name))
    again = tmp_path / "again.yaml"
    again.write_text(dump_project(project), encoding="utf-8")
    assert load_project(again) == project


@pytest.mark.parametrize("name", MAIN)
def test_every_key_of_an_example_is_told(name: str, tmp_path: Path) -> None:
    report = import_example(tmp_path, name)
    told = {part for entry in report.entries for part in entry.key.split(".")}
    told |= {str(part) for entry in report.entries if isinstance(entry.value, list) for part in leaves(entry.value)}
    data = load(EXAMPLES / name)
    keys = {key.lstrip("-") for key in leaves(data)}
    if name.endswith(".env"):
        keys = set()
    if name in DATASETS:
        keys |= set(leaves(load(EXAMPLES / DATASETS[name])))
    older = {"validation_steps", "optimizer_config"}
    missing = {key for key in keys - STRUCTURE - older if key not in told and not disabled(key)}
    assert not missing


def disabled(key: str) -> bool:
    """Keys that are told with the group that they lie in: samples, secrets."""
    return key in {"enabled", "prompt", "huggingface_token"}


@pytest.mark.parametrize("name", MAIN)
def test_yaml_names_no_folder_of_this_machine_and_no_secret(name: str, tmp_path: Path) -> None:
    report = import_example(tmp_path, name)
    told = json.dumps(report.as_dict())
    assert str(tmp_path) not in report.yaml
    assert str(tmp_path) not in told
    for secret in ("0123456789abcdef", "hf_abcdefgh", "very-secret", "s3cr3t"):
        assert secret not in report.yaml
        assert secret not in told


@pytest.mark.parametrize("tool", TOOLS.values(), ids=lambda tool: tool.name)
def test_every_row_names_settings_that_are_there(tool: Any) -> None:
    known = {*field_rows(), "optimizer.args"}
    for table in tool.tables:
        for row in table.rows:
            plain = {name for name in row.settings if not name.startswith("optimizer.args.")}
            assert plain <= known, row.key


@pytest.mark.parametrize("tool", TOOLS.values(), ids=lambda tool: tool.name)
def test_no_key_has_two_rows_and_no_default_is_without_one(tool: Any) -> None:
    for table in tool.tables:
        keys = [row.key for row in table.rows]
        assert len(keys) == len(set(keys)), sorted(key for key in keys if keys.count(key) > 1)
        assert not [default.key for default in table.defaults if table.find(default.key) is None]


def test_the_tables_of_the_documentation_are_up_to_date() -> None:
    text = (ROOT / "docs" / "importing.md").read_text(encoding="utf-8")
    assert page(text) == text, "run `python -m trainer_core.importers.docs`"
