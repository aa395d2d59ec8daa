"""Arguments that several commands share, and how a project is named."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from trainer_core.config.load import HOME_FOLDER, HOME_VARIABLE, project_home
from trainer_core.errors import ConfigError
from trainer_core.types import Finding

CONFIGS = Path("configs")
"""Folder in which a project is found by its name, relative to the current folder."""

Config = Annotated[str, typer.Argument(metavar="CONFIG", help="A project's YAML file, or NAME for configs/NAME.yaml.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="GROUP.FIELD=VALUE", help="Override a setting; may be given several times."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks, and the messages of the libraries in use.")]
Verbose = Annotated[int, typer.Option("--verbose", "-v", count=True, show_default=False, help="Show more messages.")]
Home = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder of the store and the outputs. Default: LORA_ASSETS_HOME, else .lora-assets."
    ),
]


def find_config(name: str) -> Path:
    """Return the YAML file that a CONFIG argument names.

    Raises:
        ConfigError: there is neither such a file nor such a project.
    """
    path, named = Path(name), CONFIGS / f"{name}.yaml"
    if path.is_file() or not (named.is_file() or _is_bare(name)):
        return path
    if named.is_file():
        return named
    known = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.yaml")))
    fix = f"Projects in {CONFIGS}/: {known}." if known else "Give the path of a project's YAML file."
    raise ConfigError([Finding("error", name, f"is neither a file nor a project in {CONFIGS}/.", fix)])


def find_home(chosen: Path | None, config: str | None = None) -> Path:
    """Return the home folder: the chosen one, else the project's, else that of the current folder."""
    if chosen is not None:
        return chosen.expanduser().absolute()
    return project_home(find_config(config) if config else CONFIGS / "any.yaml")


def show_home(home: Path, config: Path) -> None:
    """Say on stderr where store and outputs of a project are, and which folder here they are not in."""
    chosen = os.environ.get(HOME_VARIABLE)
    why = f"set by {HOME_VARIABLE}" if chosen else f"the default for {config}; {HOME_VARIABLE} sets another"
    here = Path.cwd() / HOME_FOLDER
    other = f"; not {here}" if here.is_dir() and here != home else ""
    print(f"Home: {home} ({why}{other})", file=sys.stderr)


def _is_bare(name: str) -> bool:
    return "/" not in name and not name.endswith((".yaml", ".yml"))
