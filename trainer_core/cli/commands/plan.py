"""`plan`: says what a run would compute and why, without computing it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer_core.cli.arithmetic import show_arithmetic
from trainer_core.cli.memory import memory_of, show_memory
from trainer_core.cli.options import Config, Debug, Json, Set, Verbose, find_config, show_home
from trainer_core.cli.progress import duration
from trainer_core.cli.tables import table
from trainer_core.cli.terminal import Terminal, show_findings, terminal
from trainer_core.config.load import load_project, project_home
from trainer_core.data.epoch.held_out import plan_evaluation
from trainer_core.errors import LoraAssetsError
from trainer_core.memory import report
from trainer_core.run import open_session
from trainer_core.run import plan as make_plan
from trainer_core.stages.preflight.findings import caption_findings, warnings
from trainer_core.stages.project.memory_plan import memory_plan
from trainer_core.train.optim.rate_curve import RateCurve
from trainer_core.types import JSON, Finding, Report, silent

if TYPE_CHECKING:
    from trainer_core.data.epoch.held_out import EvaluationPlan
    from trainer_core.data.epoch.run_length import RunLength
    from trainer_core.memory.planner import Plan
    from trainer_core.run import StagePlan

_SHOWN = 3
"""Number of samples that are named for each reason."""

EXAMPLES = (
    ("lora-assets plan cats --json", "for programs"),
    ("lora-assets plan cats --for 12GiB", "what fits a GPU that one does not have"),
)
"""Shown under `--help`."""


For = Annotated[
    str,
    typer.Option(
        "--for",
        metavar="MACHINE",
        help="Plan memory for rtx4090, h100, dgx_spark or a GPU of NGiB. The base's config files are enough.",
    ),
]


@dataclass(frozen=True)
class _Work:
    """What a run would compute."""

    plans: list[StagePlan]
    length: RunLength
    findings: tuple[Finding, ...]
    rate: RateCurve
    evaluation: EvaluationPlan
    memory: Plan | None


def plan(  # noqa: PLR0913 - an argument an option
    config: Config,
    settings: Set = None,
    what: For = "",
    as_json: Json = False,
    debug: Debug = False,
    verbose: Verbose = 0,
) -> None:
    """Say what would be computed, and why, and how much memory it takes."""
    with terminal(as_json, debug, verbose) as out:
        path = find_config(config)
        if what:
            _show_machine(out, path, settings or [], what)
            return
        with out.progress(["validated_dataset"]) as shown:
            found = _found(path, settings or [], shown)
        if as_json:
            out.emit(_as_dict(found))
            return
        _show(out, found.plans)
        show_findings(out.console, found.findings)
        show_arithmetic(out.console, found.length)
        if sentence := found.evaluation.sentence():
            out.console.print(sentence, soft_wrap=True)
        out.console.print("\n" + "\n".join(found.rate.drawn()))
        if found.memory is not None:
            show_memory(out.console, found.memory)


def _found(path: Path, settings: list[str], shown: Report) -> _Work:
    session = open_session(path, settings, shown)
    show_home(session.workspace.home, path)
    try:
        length, memory = session.length, memory_of(session)
        findings = (*warnings(session), *caption_findings(session), *(report.findings(memory) if memory else ()))
        measured = plan_evaluation(session.project.train, length.steps, session.workspace.manifest.samples)
        rate = RateCurve.of(session.project, length.steps)
        return _Work(make_plan(session), length, findings, rate, measured, memory)
    finally:
        session.close()


def _as_dict(found: _Work) -> dict[str, JSON]:
    return {
        "stages": [plan.as_dict() for plan in found.plans],
        "findings": [finding.as_dict() for finding in found.findings],
        "arithmetic": found.length.as_dict(),
        "evaluation": found.evaluation.as_dict(),
        "schedule": found.rate.as_dict(),
        "memory": report.as_dict(found.memory) if found.memory else None,
    }


def _show_machine(out: Terminal, path: Path, settings: list[str], what: str) -> None:
    """Plan memory for a machine that one does not have, and the work where base and pictures are there."""
    memory = memory_plan(load_project(path, settings), project_home(path), what)
    work: dict[str, JSON] = {"stages": [], "findings": [], "arithmetic": None, "evaluation": None, "schedule": None}
    if out.as_json:
        try:
            work = _as_dict(_found(path, settings, silent))
        except LoraAssetsError as error:
            work["findings"] = [Finding("info", "plan", f"only memory is planned: {error}", "").as_dict()]
        out.emit({**work, "memory": report.as_dict(memory)})
    else:
        show_memory(out.console, memory)


def _show(out: Terminal, plans: list[StagePlan]) -> None:
    console = out.console
    rows = [[one.name, one.status, _work(one), "; ".join(one.reasons), _estimate(one)] for one in plans]
    console.print(table(("stage", "status", "work", "why", "estimate"), rows))
    for one in plans:
        for line in _samples(one):
            console.print(line, soft_wrap=True)


def _work(one: StagePlan) -> str:
    return f"{one.stale_count} of {one.total}" if one.status != "fresh" else f"0 of {one.total}"


def _estimate(one: StagePlan) -> str:
    if one.status == "fresh":
        return ""
    return "not known yet" if one.seconds is None else duration(one.seconds)


def _samples(one: StagePlan) -> Iterator[str]:
    """Return lines that list the samples to compute, grouped by reason."""
    groups: dict[str, list[str]] = defaultdict(list)
    for sample, reason in one.stale:
        groups[reason].append(sample)
    if groups:
        yield f"{one.name}:"
    for reason, samples in sorted(groups.items(), key=lambda group: -len(group[1])):
        rest = f" and {len(samples) - _SHOWN} more" if len(samples) > _SHOWN else ""
        yield f"  {len(samples)} {reason}: {', '.join(samples[:_SHOWN])}{rest}"
