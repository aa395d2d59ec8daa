"""The commands by name. A command's module is imported when that command is called, so that `--help` is quick.

A module of `trainer_core.cli.commands` defines a function of its own name, which Typer turns into the command, and
`EXAMPLES`, which are shown at the end of its help.
"""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from trainer_core.cli import commands

COMMANDS = {
    "init": "Write a project for a folder of pictures.",
    "import": "Turn a config of another trainer into a project.",
    "check": "Say all that is wrong with settings, model and pictures.",
    "plan": "Say what would be computed, and why, and how much memory it takes.",
    "find-lr": "Find a learning rate: train a little while the rate rises.",
    "train": "Train, render samples and measure; reuse what is up to date.",
    "sample": "Render base and LoRA side by side.",
    "verify": "Compare files with the SHA-256 that they were published with.",
    "export": "Convert a LoRA file into another format.",
    "gc": "Delete from the store what no project uses.",
    "doctor": "Say whether this machine can train and the store is undamaged.",
}
"""Name -> first line of the command's docstring, in the order of `lora-assets --help`."""
_MODULES = {"import": "import_config"}
"""Modules that are not named after their command, because Python reserves the name."""


def examples(*lines: tuple[str, str]) -> str:
    """Return the end of a help text: commands, each with a line that says what it does."""
    # After \b the help text keeps its line breaks.
    return "\b\nExamples:\n" + "\n".join(f"  {command}\n      {meaning}" for command, meaning in lines)


class LazyCommand(TyperCommand):
    """Stands for a command in the list; its module is imported when its arguments are parsed."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Import the command, and parse the arguments with the options that its function declares."""
        assert self.name is not None
        return load_command(self.name).make_context(info_name, args, parent, **extra)


class CommandGroup(TyperGroup):
    """The group of all commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, summary in COMMANDS.items():
            self.add_command(LazyCommand(name, help=summary, rich_markup_mode=None))


def load_command(name: str) -> Any:
    """Import a command's module and return what Typer makes of its function."""
    function = _MODULES.get(name, name.replace("-", "_"))
    module = importlib.import_module(f"{commands.__name__}.{function}")
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command(name, epilog=examples(*module.EXAMPLES))(getattr(module, function))
    return typer.main.get_command(alone)
