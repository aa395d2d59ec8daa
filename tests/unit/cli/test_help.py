from __future__ import annotations

import pytest

from tests.unit.cli.support import call, run
from trainer_core.cli.lazy_commands import COMMANDS as SUMMARIES
from trainer_core.cli.lazy_commands import load_command

COMMANDS = ["init", "import", "check", "plan", "find-lr", "train", "sample", "verify", "export", "gc", "doctor"]


def listed(text: str) -> list[str]:
    """The names under `Commands:`."""
    lines = text.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    return [line.split()[0] for line in lines]


def test_help_lists_the_commands_in_the_order_of_a_project() -> None:
    result = call("--help")
    assert result.exit_code == 0
    assert listed(result.stdout) == COMMANDS


def test_every_command_is_described_in_one_whole_line() -> None:
    lines = call("--help").stdout.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert all(line.endswith(".") and not line.endswith("...") for line in lines), lines


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    text = call(command, "--help").stdout
    assert f"lora-assets {command}" in text.partition("Examples:")[2]
    assert "--json" in text
    assert "--debug" in text


@pytest.mark.parametrize("command", ["check", "plan", "find-lr", "train", "sample"])
def test_commands_that_take_a_config_take_overrides(command: str) -> None:
    text = call(command, "--help").stdout
    assert "CONFIG" in text
    assert "--set" in text


@pytest.mark.parametrize("arguments", [["frobnicate"], ["train"], ["check", "a", "b"], ["gc", "--grace", "soon"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert "Error" in result.stderr


def test_help_imports_nothing_heavy() -> None:
    heavy = "torch pandas numpy PIL rich matplotlib diffusers pydantic sqlite3"
    done = run("--help", python=f"print([name for name in '{heavy}'.split() if name in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_list_of_commands_repeats_the_first_line_of_each_commands_own_help() -> None:
    own = {name: load_command(name).help.partition("\n")[0] for name in COMMANDS}
    assert own == SUMMARIES


def test_calling_one_command_imports_no_other() -> None:
    code = "print(sorted(name for name in sys.modules if name.startswith('trainer_core.cli.commands.')))"
    assert run("doctor", "--help", python=code).stdout.splitlines()[-1] == "['trainer_core.cli.commands.doctor']"
