"""What is wrong with the settings of samples and their control pictures, before anything is rendered."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from trainer_core.errors import ConfigError
from trainer_core.sampling.prompt_file import FIELD, PromptLine
from trainer_core.sampling.samplers import check_sampler
from trainer_core.stages.preflight.controls import control_findings
from trainer_core.stages.project.prompt_lines import prompt_controls, prompt_lines
from trainer_core.stages.project.session import Session
from trainer_core.types import Finding

_FITS = "sampler 1"
"""Kind of the facts that remember whether a sampler fits a pipeline: to find out takes diffusers."""


def sample_findings(session: Session) -> Iterator[Finding]:
    """Yield findings about control pictures, `sample.prompt_file`, sizes and samplers."""
    project, lines = session.project, tuple[PromptLine, ...]()
    try:
        lines = prompt_lines(project.sample)
    except ConfigError as error:
        yield from error.findings
    if lines:
        of_file = {
            "prompts": tuple(line.prompt for line in lines),
            "control_paths": prompt_controls(project.sample, lines),
        }
        project = project.model_copy(update={"sample": project.sample.model_copy(update=of_file)})
    yield from control_findings(project, session.workspace.family.spec)
    yield from _sizes(session, lines)
    yield from _samplers(session, lines)


def _sizes(session: Session, lines: tuple[PromptLine, ...]) -> Iterator[Finding]:
    spec = session.workspace.family.spec
    asked = [(f"sample.{side}", "", getattr(session.project.sample, side)) for side in ("width", "height")]
    for number, line in enumerate(lines, 1):
        asked += [(FIELD, f"prompt {number}: ", value) for value in (line.width, line.height) if value]
    for field, where, value in asked:
        if value % spec.size_multiple:
            near = max(spec.size_multiple, round(value / spec.size_multiple) * spec.size_multiple)
            message = f"{where}{value} pixels: {spec.title} renders multiples of {spec.size_multiple}."
            yield Finding("error", field, message, f"Use {near}.")


def _samplers(session: Session, lines: tuple[PromptLine, ...]) -> Iterator[Finding]:
    asked = [("sample.sampler", "", session.project.sample.sampler)]
    asked += [(FIELD, f"prompt {number}: ", line.sampler) for number, line in enumerate(lines, 1) if line.sampler]
    for field, where, name in asked:
        if name and (problem := _problem(session, name)):
            yield Finding("error", field, f"{where}{problem}.", "Choose one of them, or leave it out.")


def _problem(session: Session, name: str) -> str:
    spec, index = session.workspace.family.spec, session.workspace.store.index
    key = f"{name} {spec.prediction} {spec.pipeline} {version('diffusers')}"
    known = index.facts(_FITS, [key]).get(key)
    if known is None:
        known = check_sampler(name, spec.prediction, spec.pipeline) or ""
        index.remember(_FITS, {key: known})
    return str(known)
