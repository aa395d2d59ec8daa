"""`check`: reports everything that is wrong or worth knowing, all at once, before anything is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from trainer_core.cli.arithmetic import show_arithmetic
from trainer_core.cli.memory import memory_of, show_memory
from trainer_core.cli.options import Config, Debug, Json, Set, Verbose, find_config
from trainer_core.cli.tables import table
from trainer_core.cli.terminal import Terminal, show_findings, terminal
from trainer_core.config.load import load_project, project_home
from trainer_core.data.epoch.run_length import KEYS, RunLength, run_length
from trainer_core.data.names import pluralize
from trainer_core.errors import ConfigError, DatasetError, ModelError
from trainer_core.families import get_family
from trainer_core.hardware.detect import detect_machine, select_profile
from trainer_core.memory import report as memory_report
from trainer_core.stages.preflight.findings import caption_findings, project_findings
from trainer_core.stages.preflight.rule_facts import run_findings
from trainer_core.stages.project.session import Session
from trainer_core.types import JSON, Finding, Report

if TYPE_CHECKING:
    from rich.console import Console

    from trainer_core.config.project import Project
    from trainer_core.data.manifest import Manifest
    from trainer_core.memory.planner import Plan

_SHOWN = 5
"""Number of excluded pictures that are named for each cause."""


@dataclass(frozen=True)
class Inspection:
    """The result of a check. There is no manifest if errors in the settings or the dataset end the check before it."""

    findings: tuple[Finding, ...]
    project: Project | None = None
    manifest: Manifest | None = None
    memory: Plan | None = None

    @property
    def arithmetic(self) -> RunLength | None:
        """How pictures and steps relate; None if there is no picture to train on."""
        if self.project is None or self.manifest is None:
            return None
        project = self.project
        figures = run_length(project.train, project.hardware.num_processes, self.manifest.samples)
        return figures if figures.images else None

    @property
    def usable(self) -> bool:
        """Whether training may start."""
        return not any(finding.level == "error" for finding in self.findings)


EXAMPLES = (("lora-assets check cats --set train.steps=500", "check with another setting"),)
"""Shown under `--help`."""


def check(  # noqa: PLR0913 - an argument an option
    config: Config,
    settings: Set = None,
    as_json: Json = False,
    debug: Debug = False,
    verbose: Verbose = 0,
) -> None:
    """Say all that is wrong with settings, model and pictures.

    Also the buckets, and how pictures, batches and steps relate. Exit code 2 if training cannot start.
    """
    with terminal(as_json, debug, verbose) as out:
        with out.progress(["validated_dataset"]) as shown:
            found = inspect(config, settings or [], shown)
        if as_json:
            out.emit(as_dict(found))
        else:
            _show(out, found)
        if not found.usable:
            raise typer.Exit(2)


def inspect(config: str, overrides: Sequence[str], report: Report) -> Inspection:
    """Check settings, model and pictures, and collect all findings."""
    try:
        path = find_config(config)
        project = load_project(path, overrides)
    except ConfigError as error:
        return Inspection(error.findings)
    return _inspect_project(project, project_home(path), report)


def as_dict(found: Inspection) -> dict[str, JSON]:
    """The stable JSON form of `check --json`."""
    manifest = found.manifest
    excluded = [{"path": gone.path, "reason": gone.reason} for gone in manifest.excluded] if manifest else []
    figures = found.arithmetic
    return {
        "findings": [finding.as_dict() for finding in found.findings],
        "dataset": {
            "found": manifest.total if manifest else 0,
            "used": len(manifest.samples) if manifest else 0,
            "excluded": excluded,
        },
        "arithmetic": figures.as_dict() if figures else dict.fromkeys(KEYS),
        "memory": memory_report.as_dict(found.memory) if found.memory else None,
    }


def _inspect_project(project: Project, home: Path, report: Report) -> Inspection:
    try:
        get_family(project.model.family)
    except ModelError as error:
        return Inspection((_finding("model.family", error), *_profile(project)), project)
    # The session chooses the profile itself, so that a wrong `hardware.profile` does not hide other errors.
    session = Session.open(_on_this_machine(project), home, report)
    try:
        settings = [*project_findings(session), *_profile(project)]
        if any(finding.field.startswith("datasets.") and finding.level == "error" for finding in settings):
            return Inspection(tuple(settings), project)
        dataset, manifest = _dataset(session)
        found = Inspection((*settings, *dataset), project, manifest)
        if manifest is None or found.arithmetic is None:
            return found
        memory = memory_of(session)
        needed = memory_report.findings(memory) if memory else []
        findings = (*settings, *run_findings(session, found.arithmetic), *dataset, *needed)
        return replace(found, findings=findings, memory=memory)
    finally:
        session.close()


def _on_this_machine(project: Project) -> Project:
    """Return the project with the machine's own profile: a wrong name is one finding among others."""
    return project.model_copy(update={"hardware": project.hardware.model_copy(update={"profile": "auto"})})


def _profile(project: Project) -> Sequence[Finding]:
    try:
        select_profile(project.hardware.profile, detect_machine())
    except ConfigError as error:
        return error.findings
    return ()


def _dataset(session: Session) -> tuple[Sequence[Finding], Manifest | None]:
    try:
        manifest = session.workspace.scanned.manifest
    except DatasetError as error:
        return (_finding("datasets", error),), None
    except ConfigError as error:
        return error.findings, None
    return (*manifest.findings, *caption_findings(session)), manifest


def _finding(field: str, error: Exception) -> Finding:
    """Turn an error whose message says how to fix it into a finding; the message may begin with the field."""
    return Finding("error", field, str(error).removeprefix(f"{field}: "), "")


def _show(out: Terminal, found: Inspection) -> None:
    console = out.console
    if found.manifest is not None:
        _show_dataset(console, found.manifest)
        if found.arithmetic:
            show_arithmetic(console, found.arithmetic)
        if found.memory is not None:
            show_memory(console, found.memory)
        console.print()
    # What keeps it from training comes last, so that no table scrolls it away.
    for errors in (False, True):
        show_findings(console, [one for one in found.findings if (one.level == "error") is errors])
    console.print("\nReady to train." if found.usable else "\nNot ready to train: see the errors above.")


def _show_dataset(console: Console, manifest: Manifest) -> None:
    from trainer_core.data.reports.tables import bucket_table, statistics

    found = pluralize(manifest.total, "picture")
    console.print(f"\n{found} found = {len(manifest.samples)} used + {len(manifest.excluded)} excluded")
    for cause, count in Counter(gone.cause for gone in manifest.excluded).most_common():
        named = [gone.path for gone in manifest.excluded if gone.cause == cause]
        rest = f" and {count - _SHOWN} more" if count > _SHOWN else ""
        console.print(f"  {count} {cause}: {', '.join(named[:_SHOWN])}{rest}", soft_wrap=True)
    if paired := [sample for sample in manifest.samples if sample.controls]:
        distinct = len({control.picture for sample in paired for control in sample.controls})
        console.print(f"  {len(paired)} of them are edits of control pictures, of which {distinct} are different")
    buckets = bucket_table(manifest)
    rows = [[str(value) for value in row] for row in buckets.itertuples(index=False)]
    console.print(table([str(name).replace("_", " ") for name in buckets.columns], rows, numbers=range(1, 8)))
    figures = statistics(manifest)
    for name in ("width", "height", "megapixels", "caption_words"):
        quantiles = "  ".join(f"{at} {value:g}" for at, value in figures[name].items())
        console.print(f"  {name.replace('_', ' ')}: {quantiles}")
    console.print(
        f"  {figures['train']} for training, {figures['held_out']} held out, {figures['distinct_captions']} different "
        f"captions, {figures['duplicate_groups']} groups of equal pictures"
    )
