"""Files that are generated and reviewed: `make golden` writes them anew, the difference is read before it is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trainer_core.config.groups import DatasetConfig, ModelConfig
from trainer_core.config.load import dump_project
from trainer_core.config.project import Project
from trainer_core.config.schema import REFERENCE_FILE, RULES_FILE, SCHEMA_FILE, write

ROOT = Path(__file__).resolve().parents[2]
FILES = Path(__file__).resolve().parent / "files"


def default_dump() -> str:
    model = ModelConfig(family="sd15", path=Path("/models/base"))
    return dump_project(Project(name="default", model=model, datasets=(DatasetConfig(path=Path("/data/cats")),)))


@pytest.mark.parametrize("name", [SCHEMA_FILE, REFERENCE_FILE, RULES_FILE])
def test_the_config_reference_is_up_to_date(tmp_path: Path, same: Callable[[str, Path], None], name: str) -> None:
    write(tmp_path)
    same((tmp_path / name).read_text(encoding="utf-8"), ROOT / "docs" / name)


def test_the_default_settings_are_the_reviewed_ones(same: Callable[[str, Path], None]) -> None:
    same(default_dump(), FILES / "default_config.yaml")
