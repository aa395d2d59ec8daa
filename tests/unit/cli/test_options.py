from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.support import Project, call
from trainer_core.cli.options import find_config, find_home
from trainer_core.errors import ConfigError


def test_a_bare_name_means_the_file_in_configs(project: Project) -> None:
    assert find_config("cats") == Path("configs/cats.yaml")


def test_a_path_means_itself(project: Project) -> None:
    assert find_config(str(project.config)) == project.config


def test_a_file_wins_over_a_project_of_the_same_name(project: Project) -> None:
    Path("cats").write_text("name: other")
    assert find_config("cats") == Path("cats")


def test_an_unknown_name_is_told_with_the_known_ones(project: Project) -> None:
    with pytest.raises(ConfigError, match="cats") as raised:
        find_config("dogs")
    assert raised.value.findings[0].field == "dogs"


def test_the_home_is_the_projects_or_the_chosen_one(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_home(None, "cats") == project.home
    assert find_home(None) == project.home
    assert find_home(Path("elsewhere")) == project.root / "elsewhere"
    monkeypatch.setenv("LORA_ASSETS_HOME", str(project.root / "shared"))
    assert find_home(None) == project.root / "shared"


def test_a_missing_file_is_an_invalid_config(project: Project) -> None:
    result = call("plan", "configs/dogs.yaml")
    assert result.exit_code == 2
    assert "configs/dogs.yaml" in result.stderr
