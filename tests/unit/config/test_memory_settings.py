"""Values of the memory settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer_core.config.load import load_project
from trainer_core.config.rules import Facts, check_rules
from trainer_core.errors import ConfigError


def errors(tmp_path: Path, *settings: str) -> list[tuple[str, str]]:
    path = tmp_path / "cat.yaml"
    path.write_text("model: {family: sd15, path: base}\ndatasets: [{path: cats}]\n", encoding="utf-8")
    found = check_rules(load_project(path, [*settings, "bucket.resolution=512"]), Facts())
    return [(one.field, one.message) for one in found if one.level == "error"]


@pytest.mark.parametrize("value", ["true", "false", "auto", "every_second"])
def test_gradient_checkpointing_is_a_switch_or_a_word(tmp_path: Path, value: str) -> None:
    assert errors(tmp_path, f"train.gradient_checkpointing={value}") == []


@pytest.mark.parametrize(
    "setting",
    ["memory.base=fp4", "memory.blocks_to_swap=-1", "memory.blocks_to_swap=some", "train.gradient_checkpointing=third"],
)
def test_other_values_are_no_settings(tmp_path: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        errors(tmp_path, setting)
