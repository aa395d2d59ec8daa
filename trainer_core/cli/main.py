"""`lora-assets`: the list of commands."""

from __future__ import annotations

import atexit
import gc as garbage
from typing import Annotated

import typer

from trainer_core.cli.lazy_commands import CommandGroup, examples

EPILOG = examples(
    ("lora-assets check cats", "is everything right with configs/cats.yaml and its pictures?"),
    ("lora-assets plan cats", "what would be computed, and why?"),
    ("lora-assets train cats", "train; reuse what is up to date"),
)
"""Shown under `lora-assets --help`."""

# Plain help: Rich's boxes would cost every `--help` as much again as all the rest.
app = typer.Typer(
    name="lora-assets",
    cls=CommandGroup,
    help="Train LoRAs for image diffusion models. Only what changed is computed again.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"lora-assets {version('lora-assets')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train LoRAs for image diffusion models. Only what changed is computed again."""


def main() -> None:
    """Run the command line."""
    # Checking 10,000 pictures creates a million small objects that live to the end. By default the garbage collector
    # would walk them again and again, which takes a fifth of the time of a run with nothing to do.
    garbage.set_threshold(100_000, 20, 20)
    # Python collects garbage when it ends, which takes two seconds over the modules of torch and diffusers. Frozen
    # objects are left to the system. What is registered first is called last: all others have cleaned up by then.
    atexit.register(garbage.freeze)
    app()


if __name__ == "__main__":
    main()
