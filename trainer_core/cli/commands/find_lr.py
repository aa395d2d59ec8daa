"""`find-lr`: which learning rate suits the project?"""

from __future__ import annotations

from typing import Annotated

import typer

from trainer_core import run
from trainer_core.cli.options import Config, Debug, Json, Set, Verbose, find_config
from trainer_core.cli.tables import table
from trainer_core.cli.terminal import Terminal, UsageError, terminal
from trainer_core.train.range_test import FIGURES, PICTURE, FoundLr, RangeTest, refuse_adaptive

_ROWS = 12
"""Number of measurements that the table shows."""
_FEWEST = 10

EXAMPLES = (
    ("lora-assets find-lr cats", "which learning rate suits the project?"),
    ("lora-assets find-lr cats --from 1e-5 --to 1e-2 --steps 200", "a closer look"),
)
"""Shown under `--help`."""


def find_lr(  # noqa: PLR0913 - an argument an option
    config: Config,
    first: Annotated[float, typer.Option("--from", metavar="RATE", help="Lowest rate.")] = 1e-7,
    last: Annotated[float, typer.Option("--to", metavar="RATE", help="Highest rate.")] = 1e-1,
    steps: Annotated[
        int,
        typer.Option(help="Optimizer steps of the test."),
    ] = 100,
    settings: Set = None,
    as_json: Json = False,
    debug: Debug = False,
    verbose: Verbose = 0,
) -> None:
    """Find a learning rate: train a little while the rate rises.

    First measures the loss of the untrained model on the same draws, which takes about half as long as the test itself.
    Uses the project's caches and leaves its runs alone. Writes find_lr.png and find_lr.json into its outputs.
    """
    with terminal(as_json, debug, verbose) as out:
        _check(first, last, steps)
        with out.progress([*run.ancestors("lora_checkpoint")[:-1], "untrained_loss", "find_lr"]) as shown:
            session = run.open_session(find_config(config), settings or [], shown, fetch=True)
            try:
                refuse_adaptive(session.project)
                asked = RangeTest(first, last, steps)
                found = run.find_lr(session, asked, lambda result: shown.finished(result.name, result.action))
            finally:
                session.close()
        outputs = session.workspace.outputs
        files = {"picture": str(outputs / PICTURE), "figures": str(outputs / FIGURES)}
        if as_json:
            out.emit({**found.as_dict(), **files})
        else:
            _show(out, found, files["picture"])


def _check(first: float, last: float, steps: int) -> None:
    if not 0 < first < last <= 10:
        raise UsageError(f"--from {first:g} --to {last:g}: it must be 0 < from < to <= 10. Try --from 1e-6 --to 1e-2.")
    if steps < _FEWEST:
        raise UsageError(f"--steps {steps}: it must be at least {_FEWEST}.")


def _show(out: Terminal, found: FoundLr, picture: str) -> None:
    console, readings = out.console, found.readings
    shown = sorted({round((len(readings) - 1) * row / (_ROWS - 1)) for row in range(_ROWS)})
    rows = [[f"{readings[at].rate:.2e}", f"{readings[at].share:.3f}"] for at in shown if readings]
    console.print(table(("learning rate", "loss / untrained loss"), rows, numbers=(0, 1)))
    if found.diverged is not None:
        console.print(f"The loss diverged at {found.diverged:.2g}: higher rates were not tried.")
    if found.suggested is None or found.lowest is None:
        console.print("No rate lowered the loss. Try a higher --to, more --steps, or look at the pictures.")
    else:
        console.print(f"The loss falls fastest at {found.steepest:.2g} and is lowest at {found.lowest:.2g}.")
        if found.ended_too_soon:
            highest = readings[-1].rate
            console.print(
                f"warning: the range ended at {highest:.2g} before the loss rose again: a higher rate may be better. "
                f"Run again with --to {min(10.0, highest * 10):.2g}."
            )
        console.print(f"Put this into the project's YAML:\n\noptimizer:\n  lr: {found.suggested:.1e}\n")
    console.print(picture, soft_wrap=True)
