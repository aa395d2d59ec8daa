from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli.support import call

EXAMPLES = Path(__file__).resolve().parents[1] / "importers" / "examples"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(EXAMPLES / "ai-toolkit", tmp_path / "work")
    with contextlib.chdir(tmp_path / "work"):
        yield tmp_path / "work"


def test_import_writes_a_project_named_by_the_config_and_tells_every_kind_of_key(folder: Path) -> None:
    result = call("import", "sdxl_locon.yaml")
    assert result.exit_code == 0, result.stderr
    assert (folder / "configs" / "quilt.yaml").is_file()
    for words in ("ai-toolkit, detected by", "mapped:", "changed:", "unsupported:", "unknown: 1 key (", "train.stepz"):
        assert words in result.stdout
    assert "performance_log_every" not in result.stdout
    assert "lora-assets check configs/quilt.yaml" in result.stdout


def test_verbose_lists_what_does_not_matter(folder: Path) -> None:
    assert "performance_log_every" in call("import", "sdxl_locon.yaml", "-v").stdout


def test_json_is_one_object_with_every_key(folder: Path) -> None:
    result = call("import", "flux_dev.yaml", "-o", "mine.yaml", "--json")
    told = json.loads(result.stdout)
    assert list(told) == [
        *("tool", "told_by", "family", "family_told_by", "source", "output", "counts", "entries", "findings"),
    ]
    assert set(told["entries"][0]) == {"status", "key", "value", "settings", "note", "default"}
    assert told["output"] == "mine.yaml"
    assert sum(told["counts"].values()) == sum(not entry["default"] for entry in told["entries"])


def test_a_second_import_needs_force(folder: Path) -> None:
    assert call("import", "flux_dev.yaml").exit_code == 0
    again = call("import", "flux_dev.yaml")
    assert again.exit_code == 1
    assert "--force" in again.stderr
    assert call("import", "flux_dev.yaml", "--force").exit_code == 0


def test_what_is_missing_is_told_with_exit_code_1_and_nothing_written(folder: Path) -> None:
    (folder / "bare.yaml").write_text(
        "config:\n  name: x\n  process:\n  - type: sd_trainer\n    network: {linear: 4}\n", encoding="utf-8"
    )
    result = call("import", "bare.yaml")
    assert result.exit_code == 1
    assert "model.path" in result.stderr
    assert "datasets" in result.stderr
    assert not (folder / "configs").exists()


def test_a_file_that_is_not_there_is_wrong_usage(folder: Path) -> None:
    assert call("import", "nowhere.toml").exit_code == 2
    assert call("import", "flux_dev.yaml", "--dataset", "nowhere.toml").exit_code == 2


def test_a_refusal_is_one_error_and_not_an_error_of_an_error(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "lora", "model_family": "flux", "lora_rank": 8, "controlnet": true}')
    result = call("import", config)
    assert result.exit_code == 1
    assert "ControlNet" in result.stderr
    assert result.stderr.count("error: ") == 1
