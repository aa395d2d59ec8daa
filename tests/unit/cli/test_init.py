from __future__ import annotations

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from trainer_core.cli.main import app

ROOT = Path(__file__).resolve().parents[3]
DEMO = [str(ROOT / "demo" / "dataset"), "--base", str(ROOT / "demo" / "base")]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LORA_ASSETS_HOME", raising=False)


def run(*arguments: str, answers: str = ""):
    return CliRunner().invoke(app, ["init", *arguments], input=answers)


def test_a_project_is_written_without_questions_and_is_ready_to_train(tmp_path: Path) -> None:
    result = run(*DEMO, "--trigger", "zorbling", "--name", "zorb", "--yes")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "configs" / "zorb.yaml").read_text()
    assert YAML(typ="safe").load(text)["model"]["family"] == "sd15"
    assert text.count("#") > 15
    checked = CliRunner().invoke(app, ["check", "zorb", "--json"])
    assert checked.exit_code == 0, checked.output
    assert {finding["level"] for finding in json.loads(checked.stdout)["findings"]} <= {"info"}


def test_the_choices_are_told_to_programs(tmp_path: Path) -> None:
    result = run(*DEMO, "--name", "zorb", "--json")
    told = json.loads(result.stdout)
    assert told["file"] == "configs/zorb.yaml"
    assert {"setting", "value", "reason"} == set(told["choices"][0])


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    target.write_text("name: mine\n")
    result = run(*DEMO, "--yes", "-o", str(target))
    assert result.exit_code == 2
    assert "--force" in result.output
    assert target.read_text() == "name: mine\n"
    assert run(*DEMO, "--yes", "-o", str(target), "--force").exit_code == 0
    assert "model:" in target.read_text()


def test_what_cannot_be_guessed_must_be_given(tmp_path: Path) -> None:
    result = run(DEMO[0], "--yes")
    assert result.exit_code == 2
    assert "--base" in result.output
    assert not (tmp_path / "configs").exists()


def test_a_base_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = run(DEMO[0], "--base", str(tmp_path / "nothing"), "--family", "sd15", "--yes")
    assert result.exit_code == 2
    assert "nothing" in result.output
    assert not (tmp_path / "configs").exists()


def test_questions_are_asked_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_core.cli.commands.init.on_terminal", lambda: True)
    result = run(*DEMO, answers="zorb\nlandscape\nstyle\naggressive\nzorbling\n\n")
    assert result.exit_code == 0, result.output
    written = YAML(typ="safe").load((tmp_path / "configs" / "zorb.yaml").read_text())
    assert written["adapter"]["rank"] == 64
    assert written["caption"]["trigger_word"] == "zorbling"


def test_a_folder_of_pictures_is_no_base(tmp_path: Path) -> None:
    result = run(DEMO[0], "--base", DEMO[0], "--yes")
    assert result.exit_code == 2
    assert "has no model in it" in result.output


def test_a_project_outside_of_configs_is_checked_by_its_path(tmp_path: Path) -> None:
    target = tmp_path / "else where" / "zorb.yaml"
    result = run(*DEMO, "--trigger", "zorbling", "--name", "zorb", "--yes", "-o", str(target))
    assert result.exit_code == 0, result.output
    assert f"lora-assets check '{target}'" in result.output
