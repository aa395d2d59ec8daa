"""Every command that README and docs show exists and takes the options that it is shown with.

What the commands do is tested where they are: tests/unit/cli, tests/integration. Here nothing is run but the parser.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from trainer_core.cli.main import app

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "demo" / "README.md", *(ROOT / "docs").rglob("*.md")]
)
PROGRAMS = ("lora-assets", "make", "python")
NOT_PARSED = {
    "python -m benchmarks [--only NAME] [--quick] [--json FILE]": "a synopsis",
}
"""Command -> why it cannot be parsed as it stands."""


def shown_commands() -> Iterator[tuple[str, str]]:
    """Yield (page, command) of each command in a code block or a code span."""
    for page in PAGES:
        text = page.read_text("utf-8")
        spans = re.findall(r"`([^`\n]+)`", text)
        blocks = [line.strip() for line in text.splitlines() if line.startswith("    ")]
        for fence in re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, re.S):
            blocks += [line.strip() for line in fence.splitlines()]
        for command in dict.fromkeys([*spans, *blocks]):
            command = command.removeprefix("$ ").split("  #")[0].strip()
            if command.split(" ")[0] in PROGRAMS and " " in command:
                yield page.relative_to(ROOT).as_posix(), command


COMMANDS = sorted(set(shown_commands()))


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))


def check_lora_assets(arguments: list[str]) -> None:
    """Parse a command line of `lora-assets`; run nothing."""
    group: Any = typer.main.get_command(app)
    name, rest = arguments[0], arguments[1:]
    command = group.commands.get(name)
    assert command is not None, f"there is no command {name!r}"
    if rest:
        command.make_context(name, rest)


def check_make(arguments: list[str]) -> None:
    """Every word without `=` is a target of the Makefile."""
    unknown = {word for word in arguments if "=" not in word} - make_targets()
    assert not unknown


def check_python(arguments: list[str]) -> None:
    """A module that is shown can be found."""
    if arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]) is not None


CHECKS = {"lora-assets": check_lora_assets, "make": check_make, "python": check_python}


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page}: {command}" for page, command in COMMANDS])
def test_a_shown_command_exists_with_its_options(page: str, command: str) -> None:
    if command in NOT_PARSED:
        return
    program, *arguments = shlex.split(command)
    CHECKS[program](arguments)


def test_every_exception_is_still_shown() -> None:
    assert set(NOT_PARSED) <= {command for _, command in COMMANDS}


def test_docs_commands_lists_every_command() -> None:
    group: Any = typer.main.get_command(app)
    listed = {shlex.split(command)[1] for page, command in COMMANDS if page == "docs/commands.md"}
    assert set(group.commands) <= listed


@pytest.mark.parametrize("command", ["frobnicate cats", "train cats --sett optimizer.lr=1"])
def test_a_wrong_command_is_noticed(command: str) -> None:
    with pytest.raises(Exception, match="there is no command|No such option"):
        check_lora_assets(shlex.split(command))
