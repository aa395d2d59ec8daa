"""`import`: turns a config of another trainer into a project, and reports what became of every key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer_core.cli.options import Debug, Json, Verbose
from trainer_core.cli.tables import table
from trainer_core.cli.terminal import Terminal, UsageError, show_findings, terminal
from trainer_core.importers.run import Request, run_import

if TYPE_CHECKING:
    from trainer_core.importers.core.engine import Entry
    from trainer_core.importers.core.report import ImportReport

_COLOURS = {"mapped": "green", "changed": "yellow", "unsupported": "red", "unknown": "red", "irrelevant": "dim"}
_MEANING = {
    "mapped": "means the same here",
    "changed": "the nearest setting; the note says how it differs",
    "unsupported": "does not exist here; the note says what to do",
    "unknown": "this key is not known",
    "irrelevant": "does not matter here",
}

EXAMPLES = (
    ("lora-assets import lora_sdxl.toml", "sd-scripts, with the dataset file that it names"),
    ("lora-assets import config.json --dataset multidatabackend.json", "SimpleTuner"),
    ("lora-assets import train_lora_flux.yaml -o configs/flux.yaml", "ai-toolkit, under a name of your own"),
)
"""Shown under `--help`."""


def import_config(  # noqa: PLR0913 - an argument an option
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A config of another trainer.", show_default=False)],
    out_file: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="YAML", help="The project to write. Default: configs/NAME.yaml."),
    ] = None,
    tool: Annotated[
        str | None,
        typer.Option("--from", metavar="TOOL", help="kohya, ai-toolkit, onetrainer, simpletuner or diffusion-pipe."),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option("--dataset", metavar="PATH", help="The dataset file or a folder of pictures, if FILE names none."),
    ] = None,
    family: Annotated[
        str | None, typer.Option("--family", metavar="NAME", help="The model family, if it cannot be detected.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="PATH", help="The base model, if FILE names none.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite YAML.")] = False,
    as_json: Json = False,
    debug: Debug = False,
    verbose: Verbose = 0,
) -> None:
    """Turn a config of another trainer into a project.

    Reads sd-scripts' TOML and the kohya_ss GUI's JSON, ai-toolkit's YAML, OneTrainer's JSON, SimpleTuner's config and
    diffusion-pipe's TOML, with their dataset files. For every key the report says which setting it became,
    how the two differ, or what to do if there is no such setting. Where the tool's default is not ours, the project
    states it. FILE is never changed. An existing file is overwritten only with --force. If a required value is missing,
    nothing is written, and the exit code is 1.
    """
    with terminal(as_json, debug, verbose) as out:
        if not file.is_file():
            raise UsageError(f"{file}: there is no such file. Give a config of another trainer.")
        if dataset is not None and not dataset.exists():
            raise UsageError(f"{dataset}: does not exist. Give a dataset file or a folder of pictures with --dataset.")
        report = run_import(Request(file, out_file, tool, dataset, family, model, force))
        if as_json:
            out.emit(report.as_dict())
        else:
            _show(out, report, verbose)


def _show(out: Terminal, report: ImportReport, verbose: int) -> None:
    """Show the report, its most important keys first. Keys that do not matter are listed only with --verbose."""
    from rich.text import Text

    console = out.console
    console.print(f"{report.source}: {report.tool}, detected by {report.detected_by}", soft_wrap=True)
    console.print(f"model.family: {report.family}, detected by {report.family_detected_by}", soft_wrap=True)
    entries = report.sorted()
    for status, count in report.counts.items():
        shown = [entry for entry in entries if entry.status == status]
        if shown and (verbose or status != "irrelevant"):
            console.print()
            console.print(
                Text.assemble(
                    (f"{status}: {count} {'key' if count == 1 else 'keys'}", _COLOURS[status]), f" ({_MEANING[status]})"
                )
            )
            _table(out, shown)
    if report.counts["irrelevant"] and not verbose:
        console.print(f"Keys that do not matter here: {report.counts['irrelevant']}; -v lists them.")
    if report.findings:
        console.print()
        show_findings(console, report.findings)
    console.print(f"\nWrote {report.output}. Next: lora-assets check {report.output}", soft_wrap=True)


def _table(out: Terminal, entries: list[Entry]) -> None:
    rows = [
        [
            f"{entry.key} (its default)" if entry.default else entry.key,
            _short(entry.value),
            ", ".join(f"{name} = {_short(value)}" for name, value in entry.settings.items()),
            entry.note,
        ]
        for entry in entries
    ]
    out.console.print(table(("key", "value", "here", "note"), rows))


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
