"""`sample`: renders base and LoRA side by side."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer_core.cli.commands.train import bring_up_to_date
from trainer_core.cli.options import Config, Debug, Json, Set, Verbose, find_config, show_home
from trainer_core.cli.progress import Progress
from trainer_core.cli.terminal import UsageError, terminal
from trainer_core.errors import LoraAssetsError
from trainer_core.run import open_session
from trainer_core.sampling.prompt_file import read_prompt_file
from trainer_core.stages.lora_checkpoint import NAME
from trainer_core.stages.publishing.lora_names import file_for_diffusers
from trainer_core.stages.rendering.prompts import own_prompts
from trainer_core.stages.rendering.renderer import render_settings
from trainer_core.types import JSON, ProgressEvent

if TYPE_CHECKING:
    from trainer_core.run import StageResult
    from trainer_core.sampling.render import RenderSettings
    from trainer_core.stages.project.session import Session

_STAGE = "samples"

EXAMPLES = (
    ("lora-assets sample cats", "the project's own samples"),
    ('lora-assets sample cats --prompt "a cat on the moon" --seed 7', "a prompt of your own, base beside LoRA"),
)
"""Shown under `--help`."""


def sample(  # noqa: PLR0913 - an argument an option
    config: Config,
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="A prompt of your own; may be given several times.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the first prompt. Default: `sample.seed`.")] = None,
    control: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="For edit families: a picture that the prompts edit; may be given several times."
        ),
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts of your own from a file: text lines, JSON or TOML."),
    ] = None,
    sampler: Annotated[str | None, typer.Option(metavar="NAME", help="Sampler. Default: `sample.sampler`.")] = None,
    out_file: Annotated[Path | None, typer.Option("--out", metavar="FILE.png", help="The PNG file to write.")] = None,
    settings: Set = None,
    as_json: Json = False,
    debug: Debug = False,
    verbose: Verbose = 0,
) -> None:
    """Render base and LoRA side by side.

    Without --prompt, the project's own samples are brought up to date and published. With --prompt or --prompt-file
    the LoRA that was published last is rendered, and nothing is published.
    """
    with terminal(as_json, debug, verbose) as out:
        if prompt and prompt_file:
            raise UsageError("Give --prompt or --prompt-file, not both.")
        if not prompt and not prompt_file:
            if seed is not None or out_file is not None or control or sampler:
                raise UsageError(
                    "--seed, --sampler, --control and --out work only with --prompt or --prompt-file. "
                    "Set the project's own samples in its `sample:` group."
                )
            result = _published(bring_up_to_date(out, config, _STAGE, settings or [])[-1])
        else:
            with out.progress([_STAGE]) as shown:
                path = find_config(config)
                session = open_session(path, settings or [], shown, fetch=True)
                show_home(session.workspace.home, path)
                try:
                    wanted = _Wanted(tuple(prompt or ()), prompt_file, tuple(control or ()), seed, sampler)
                    result = _render_prompts(session, _settings(session, wanted), out_file, shown)
                finally:
                    session.close()
        if as_json:
            out.emit(result)
        else:
            out.console.print(f"{result['path']}", soft_wrap=True)
            if not result["changes_picture"]:
                out.console.print("The LoRA changes nothing in these pictures.")


def _published(result: StageResult) -> dict[str, JSON]:
    metadata = result.published.metadata
    return {
        "path": str(result.outputs[0]),
        "prompts": metadata["prompts"],
        "changes_picture": metadata["lora_changes_picture"],
    }


@dataclass(frozen=True)
class _Wanted:
    """What the options ask for instead of the project's own samples."""

    prompts: tuple[str, ...]
    prompt_file: Path | None
    controls: tuple[Path, ...]
    seed: int | None
    sampler: str | None


def _settings(session: Session, wanted: _Wanted) -> RenderSettings:
    lines = read_prompt_file(wanted.prompt_file) if wanted.prompt_file else ()
    texts = [line.prompt for line in lines] or wanted.prompts
    controls = [wanted.controls] * len(texts)
    if wanted.prompt_file and any(line.controls for line in lines):
        controls = [tuple(wanted.prompt_file.parent / one for one in line.controls) for line in lines]
    for of_prompt in controls:
        _check_controls(session, of_prompt)
    given = replace(own_prompts(texts, controls if any(controls) else (), session.workspace), rows=lines)
    sample, side = session.project.sample, session.project.bucket.resolution
    settings = render_settings(session.workspace, sample, side, given, sample.seed)
    if wanted.sampler is not None:
        settings = replace(settings, sampler=wanted.sampler)
    return settings if wanted.seed is None else replace(settings, seed=wanted.seed)


def _check_controls(session: Session, controls: Sequence[Path]) -> None:
    taken = session.workspace.family.spec.control
    most = taken.most if taken else 0
    if len(controls) > most:
        raise UsageError(
            f"--control: {session.workspace.family.spec.title} takes {most} control picture(s), not {len(controls)}."
        )
    if taken and taken.required and not controls:
        raise UsageError(f"--control: {session.workspace.family.spec.title} edits pictures. Give the picture to edit.")


def _render_prompts(session: Session, settings: RenderSettings, out: Path | None, shown: Progress) -> dict[str, JSON]:
    from trainer_core.stages.rendering.comparison import write_comparison

    counter, total = itertools.count(1), 2 * len(settings.prompts)

    def report() -> None:
        shown(ProgressEvent(_STAGE, next(counter), total, "picture"))

    target = out or _free_name(session.workspace.outputs)
    if not target.suffix:
        target = target.with_suffix(".png")
    lora = _current_lora(session)
    changes = write_comparison(session.workspace, session.project, lora, settings, target, report)
    return {"path": str(target), "prompts": list(settings.prompts), "changes_picture": changes}


def _current_lora(session: Session) -> Path:
    """Return the LoRA file that the project published last, after its checksum was verified.

    Raises:
        LoraAssetsError: nothing was trained yet.
    """
    key = session.workspace.store.refs.get(session.project.name, NAME)
    published = session.workspace.store.objects.get(NAME, key) if key else None
    if published is None:
        name, home = session.project.name, session.workspace.home
        fix = "Train it first: lora-assets train CONFIG, or set LORA_ASSETS_HOME to the folder that it is in."
        raise LoraAssetsError(f"{name}: there is no LoRA in {home} yet. {fix}")
    return file_for_diffusers(published)


def _free_name(folder: Path) -> Path:
    """Return a new name for a grid; the stage `samples` publishes, and deletes, files called sample-N.png."""
    return next(path for number in itertools.count(1) if not (path := folder / f"prompts-{number}.png").exists())
