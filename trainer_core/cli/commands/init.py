"""`init`: writes a first project for a folder of pictures and a base model, with the reason beside each setting."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from trainer_core.cli.options import CONFIGS, Debug, Json, Verbose
from trainer_core.cli.tables import table
from trainer_core.cli.terminal import Terminal, UsageError, show_findings, terminal
from trainer_core.config.load import load_project, project_home
from trainer_core.files import replacing
from trainer_core.types import Finding
from trainer_core.wizard.choices import choose, warnings
from trainer_core.wizard.document import write_yaml
from trainer_core.wizard.inspection import base_path, family_of, inspect, missing_model, path_from
from trainer_core.wizard.situation import EFFORTS, GOALS, Answers, Effort, Goal, Situation

if TYPE_CHECKING:
    from trainer_core.wizard.choices import Choice

Word = TypeVar("Word", bound=str)

EXAMPLES = (
    ("lora-assets init pictures/cats --base models/sdxl", "asks for what it cannot find out"),
    ("lora-assets init pictures/cats --base models/sdxl --trigger ohwx --goal style --yes", "asks nothing"),
)
"""Shown under `--help`."""


def init(  # noqa: PLR0913 - an argument an option
    dataset: Annotated[Path | None, typer.Argument(metavar="[PICTURES]", help="Folder of pictures.")] = None,
    base: Annotated[str | None, typer.Option(metavar="PATH", help="Base model: folder, file or hub id.")] = None,
    configs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of config files for a single-file base model.")
    ] = None,
    family: Annotated[str | None, typer.Option(help="Model family, if it cannot be detected.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the project. Default: the folder's name.")] = None,
    goal: Annotated[Goal | None, typer.Option(help="What is trained.")] = None,
    effort: Annotated[Effort | None, typer.Option(help="How long to train.")] = None,
    trigger: Annotated[
        str | None, typer.Option(metavar="WORD", help="Word that prompts use for what is trained.")
    ] = None,
    regularisation: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of regularisation (class) pictures.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="File to write.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing; use the proposed value for every missing option.")
    ] = False,
    force: Annotated[bool, typer.Option(help="Overwrite FILE if it exists.")] = False,
    as_json: Json = False,
    debug: Debug = False,
    verbose: Verbose = 0,
) -> None:
    """Write a project for a folder of pictures.

    Examines the machine, the base model and the pictures, asks for what it cannot find out, and writes the reason
    beside each setting.
    """
    with terminal(as_json, debug, verbose) as out:
        ask = _Asking(yes or as_json or not on_terminal())
        pictures = dataset or Path(ask.text("Folder of pictures", None, "PICTURES"))
        model = base or ask.text("Base model (folder, file or hub id)", None, "--base")
        if problem := missing_model(model):
            raise UsageError(f"{problem} Give a diffusers-format folder, a .safetensors file or a hub id with --base.")
        named = name or ask.text("Name of the project", pictures.resolve().name, "--name")
        answers = Answers(
            name=named,
            dataset=pictures,
            base=model,
            family=family or family_of(model) or ask.text("Family (sd15, sdxl, flux1 ...)", None, "--family"),
            goal=goal or ask.choice("What is trained", GOALS, "character"),
            effort=effort or ask.choice("How far to go", EFFORTS, "balanced"),
            trigger_word=ask.text("Trigger word (may be empty)", "", "--trigger") if trigger is None else trigger,
            regularisation=regularisation or ask.path("Folder of class pictures (may be empty)"),
        )
        target = output or CONFIGS / f"{named}.yaml"
        if target.exists() and not force:
            raise UsageError(f"{target} already exists. Give another file with -o, or add --force to overwrite it.")
        with out.progress(["validated_dataset"]) as shown:
            situation = inspect(answers, configs, project_home(target), shown)
        _write(out, situation, target, configs)


def on_terminal() -> bool:
    """Return whether stdin is a terminal, so that somebody can answer questions."""
    return sys.stdin.isatty()


def _write(out: Terminal, situation: Situation, target: Path, configs: Path | None) -> None:
    choices, problems = choose(situation), warnings(situation)
    project = _called(target, situation.answers.name)
    text = write_yaml(situation.answers, choices, _paths(situation.answers, configs, target.parent), project)
    with replacing(target, target.with_name(f"{target.stem}.tmp")) as temporary:
        temporary.write_text(text, encoding="utf-8")
        load_project(temporary)
    if out.as_json:
        rows = [{"setting": one.path, "value": one.value, "reason": one.reason} for one in choices]
        out.emit({"file": str(target), "choices": rows, "warnings": problems})
        return
    _show(out, choices)
    show_findings(out.console, [Finding("warning", "machine", message, "") for message in problems])
    out.console.print(f"\nWrote {target}. Next: lora-assets check {project}", soft_wrap=True)


def _called(target: Path, name: str) -> str:
    """Return the project's CONFIG argument: its name if it lies in `configs`, else its path."""
    if target.parent == CONFIGS and target.stem == name:
        return name
    return shlex.quote(str(target))


def _paths(answers: Answers, configs: Path | None, folder: Path) -> dict[str, str]:
    """Return the paths of base model, configs and picture folders as the file writes them."""
    base = base_path(answers.base)
    paths = {"base": path_from(base, folder) if base.is_absolute() else base.as_posix()}
    paths["dataset"] = path_from(answers.dataset, folder)
    named = {"configs": configs, "regularisation": answers.regularisation}
    return paths | {name: path_from(path, folder) for name, path in named.items() if path is not None}


def _show(out: Terminal, choices: list[Choice]) -> None:
    rows = [[one.path, _short(one.value), one.reason] for one in choices]
    out.console.print(table(("setting", "value", "why"), rows))


def _short(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value)} prompts"  # pyright: ignore[reportUnknownArgumentType]
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Asking:
    """Asks on a terminal. Elsewhere it takes the proposed answer, and fails if there is none."""

    def __init__(self, silent: bool) -> None:
        self._silent = silent

    def text(self, question: str, proposed: str | None, option: str) -> str:
        """Ask for a line of text."""
        if not self._silent:
            return str(typer.prompt(question, default=proposed, err=True))
        if proposed is None:
            raise UsageError(f"{question}: not given. Add {option}, or run without --yes on a terminal.")
        return proposed

    def choice(self, question: str, known: tuple[Word, ...], proposed: Word) -> Word:
        """Ask for one of several words."""
        if self._silent:
            return proposed
        listed = ", ".join(known)
        while True:
            answer = str(typer.prompt(f"{question} ({listed})", default=proposed, err=True))
            if (word := next((word for word in known if word == answer.strip().lower()), None)) is not None:
                return word
            typer.echo(f"{answer} is not one of {listed}.", err=True)

    def path(self, question: str) -> Path | None:
        """Ask for a folder; None if the answer is empty."""
        given = "" if self._silent else str(typer.prompt(question, default="", show_default=False, err=True))
        return Path(given) if given else None
