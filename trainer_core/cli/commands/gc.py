"""`gc`: delete from the store what no project uses any more."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from trainer_core.cli.options import Debug, Home, Json, Verbose, find_home
from trainer_core.cli.terminal import Terminal, UsageError, terminal
from trainer_core.store import Store, collect
from trainer_core.types import JSON

_NAMES = {
    "objects_removed": "results of stages",
    "entries_removed": "cached samples",
    "shards_removed": "cache files",
    "shards_rewritten": "cache files rewritten without what is unused",
    "runs_removed": "abandoned runs",
    "temp_removed": "temporary files",
}

EXAMPLES = (("lora-assets gc --dry-run", "what would be deleted?"),)
"""Shown under `--help`."""


def gc(  # noqa: PLR0913 - an argument an option
    config: Annotated[str | None, typer.Argument(metavar="CONFIG", help="A project that uses the store.")] = None,
    home: Home = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing; say what would be deleted.")] = False,
    grace: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Keep what was used in the last SECONDS.")
    ] = 3600,
    as_json: Json = False,
    debug: Debug = False,
    verbose: Verbose = 0,
) -> None:
    """Delete from the store what no project uses.

    What was used in the last --grace seconds stays. Files in outputs/ are never deleted.
    """
    with terminal(as_json, debug, verbose) as out:
        if config and home:
            raise UsageError("Give CONFIG or --home, not both.")
        removed = _collect(find_home(home, config) / "store", dry_run, grace)
        if as_json:
            out.emit(removed)
        else:
            _show(out, removed)


def _collect(root: Path, dry_run: bool, grace: float) -> dict[str, JSON]:
    if not (root / "VERSION").exists():
        raise UsageError(f"{root}: there is no store. Give a CONFIG, or --home with the folder that holds `store`.")
    with Store.open(root) as store:
        report = collect(store, dry_run=dry_run, grace_seconds=grace)
    return {"store": str(root), "dry_run": dry_run, **asdict(report)}


def _show(out: Terminal, removed: dict[str, JSON]) -> None:
    console = out.console
    verb = "would be " if removed["dry_run"] else ""
    for name, text in _NAMES.items():
        if removed[name]:
            console.print(f"  {removed[name]} {text}")
    console.print(f"{removed['bytes_freed'] / 2**20:.1f} MiB {verb}freed in {removed['store']}", soft_wrap=True)
