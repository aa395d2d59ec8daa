"""`plan`: says what a run would compute and why, without computing it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer_core.cli.arithmetic import show_arithmetic
from trainer_core.cli.options import Config, Debug, Json, Set, Verbose, find_config, show_home
from trainer_core.cli.progress import duration
from trainer_core.cli.tables import table
from trainer_core.cli.terminal import Terminal, show_findings, terminal
from trainer_core.run import open_session
from trainer_core.run import plan as make_plan
from trainer_core.stages.preflight.findings import caption_findings, warnings
from trainer_core.train.optim.rate_curve import RateCurve

if TYPE_CHECKING:
    from trainer_core.run import StagePlan

_SHOWN = 3
"""Number of samples that are named for each reason."""

EXAMPLES = (("lora-assets plan cats --json", "for programs"),)
"""Shown under `--help`."""


def plan(
    config: Config, settings: Set = None, as_json: Json = False, debug: Debug = False, verbose: Verbose = 0
) -> None:
    """Say what would be computed, and why, sample by sample."""
    with terminal(as_json, debug, verbose) as out:
        with out.progress(["validated_dataset"]) as shown:
            path = find_config(config)
            session = open_session(path, settings or [], shown)
            show_home(session.workspace.home, path)
            try:
                plans = make_plan(session)
                length = session.length
                findings = (*warnings(session), *caption_findings(session))
            finally:
                session.close()
        rate = RateCurve.of(session.project, length.steps)
        if as_json:
            out.emit(
                {
                    "stages": [plan.as_dict() for plan in plans],
                    "findings": [finding.as_dict() for finding in findings],
                    "arithmetic": length.as_dict(),
                    "schedule": rate.as_dict(),
                }
            )
        else:
            _show(out, plans)
            show_findings(out.console, findings)
            show_arithmetic(out.console, length)
            out.console.print("\n" + "\n".join(rate.drawn()))


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
