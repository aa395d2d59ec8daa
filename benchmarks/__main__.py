"""Run benchmarks, print a table, write results: `python -m benchmarks [--only NAME] [--quick] [--json FILE]`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks._common import Result, as_record, write_record

NAMES = ("steps", "encode", "noop", "scan", "memory", "memory_peaks", "memory_fits", "loading", "ticks")


def main() -> int:
    """Run what was asked for; return 0 also where goals are missed, which the table tells."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=NAMES, help="one benchmark; may be given again")
    parser.add_argument("--quick", action="store_true", help="about a minute each; prints, but keeps no result files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all results into one file")
    asked = parser.parse_args()
    console, records = Console(), []
    for name in asked.only or NAMES:
        command = _threads() + f"python -m benchmarks --only {name}" + (" --quick" if asked.quick else "")
        with console.status(f"measuring {name} ..."):
            result: Result = importlib.import_module(f"benchmarks.{name}").run(asked.quick)
        console.print(_table(result))
        for note in result.notes:
            console.print(f"  {note}")
        records.append(as_record(result, command))
        if not asked.quick:
            console.print(f"  written: {write_record(result, command).name}")
    if asked.json:
        asked.json.write_text(json.dumps(records, indent=2, sort_keys=True) + "\n")
    return 0


def _threads() -> str:
    """Return the setting of threads in force, as it stands before a command."""
    return f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']} " if "OMP_NUM_THREADS" in os.environ else ""


def _table(result: Result) -> Table:
    table = Table(title=result.title, title_justify="left")
    for column in ("figure", "value (quartiles)", "goal", "note"):
        table.add_column(column, overflow="fold")
    for figure in result.figures:
        missed = figure.goal is not None and not figure.goal.met(figure.value)
        table.add_row(*figure.cells(), style="red" if missed else "green" if figure.goal else "")
    return table


if __name__ == "__main__":
    sys.exit(main())
